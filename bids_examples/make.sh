#!/bin/sh
# Make both example data sets again, with fixed seeds. They replace what is there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
export OMP_NUM_THREADS=1
rm -rf "$here/cohort" "$here/oblique"
"$python" -m qsmprep.cli.simulate "$here/cohort" --name "qsmprep example: cohort" \
    --subjects 2 --seed 20 --voxel-mm 2.3 2.3 2.3 --fov-mm 170 206 160 \
    --echo-times 0.005 0.011 0.017 0.023 --snr 90 --t1w-mm 2.2 --group-effect 0.15
"$python" -m qsmprep.cli.simulate "$here/oblique" --name "qsmprep example: oblique" \
    --subjects 1 --seed 21 --voxel-mm 1.5 1.5 3 --fov-mm 168 204 102 --tilt-deg 20 --orientation RAS \
    --suffix T2starw --echo-times 0.02 --tr 0.028 --vendor philips --snr 80 --t1w-mm 0
