#!/usr/bin/env bash
# Builds the wheel from the tracked files, installs it with the pins into an empty environment, and uses it from
# another folder, without the network where the system lets us: what a user of `pip install` gets.
#
#   PYTHON=python3.11 bash tests/wheel/check.sh
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH VIRTUAL_ENV

echo "== wheel"
mkdir "$work/src" "$work/elsewhere" "$work/home"
# tracked files only: what lies about in a checkout would hide what the wheel lacks
(cd "$root" && git ls-files -z | tar --null --files-from=- --create --file=-) | tar --extract --directory="$work/src"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/dist" "$work/src"
rm -rf "$work/src"
ls -l "$work/dist"

echo "== an empty environment"
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet -c "$root/constraints.txt" "$work"/dist/*.whl
"$work/venv/bin/python" -m pip check
export PATH="$work/venv/bin:$PATH" HOME="$work/home"
cd "$work/elsewhere"
where=$(python -c 'import qsmprep; print(qsmprep.__file__)')
case "$where" in "$work"/venv/*) ;; *) echo "another qsmprep is used: $where" >&2; exit 1 ;; esac

alone=()
if unshare --net true 2>/dev/null; then alone=(unshare --net); echo "== without a network"; else echo "== with the network"; fi
chmod 555 "$HOME"
for name in qsmprep qsmprep-step qsmprep-simulate qsmprep-train qsmprep-slurm; do
    "${alone[@]}" "$name" --version
done
"${alone[@]}" qsmprep-step list > list.txt
"${alone[@]}" qsmprep-simulate raw --subjects 1 --voxel-mm 4 4 4 --fine-mm 4 --t1w-mm 2
# weights, atlas, templates of the pages, bibliography: all from the wheel
"${alone[@]}" qsmprep raw out participant -w work --nprocs 1 --device cpu --segmentation atlas \
    --inversion whqsm loopnet metaqsm qsminvnet conenet
"${alone[@]}" qsmprep raw out group
"${alone[@]}" qsmprep-slurm raw out -w work
for name in whqsm loopnet metaqsm qsminvnet conenet; do
    test -s "out/sub-01/anat/sub-01_desc-${name}_Chimap.nii.gz"
done
test -s out/sub-01.html && test -s out/group.html && test -s out/logs/CITATION.bib

echo "== the demo"
cp -r "$root/bids_examples" examples
for name in cohort oblique; do
    "${alone[@]}" qsmprep "examples/$name" "demo/$name" participant -w "demo_work/$name" --device cpu
done
test "$(find demo -maxdepth 2 -name 'sub-*.html' | wc -l)" = 3
echo "== the wheel works"
