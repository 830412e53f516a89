
# ---- the same for every job from here on ---------------------------------------------------------------------------

name=group
label=
if [ "$level" = participant ]; then
    label=${labels[SLURM_ARRAY_TASK_ID - 1]}
    name=sub-$label
fi
job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}
task=${SLURM_ARRAY_TASK_ID:-null}
restarts=${SLURM_RESTART_COUNT:-0}
host=${SLURMD_NODENAME:-$(hostname)}
start=$(date -u +%Y-%m-%dT%H:%M:%SZ)
stopped=
child=

# say STATE EXIT_CODE END: written beside its place and renamed into it, so that nobody reads half of it.
say() {
    local file=$job_dir/status/$name.json
    local part=$file.$SLURM_JOB_ID.part
    printf '{"name": "%s", "state": "%s", "exit_code": %s, "start": "%s", "end": %s, "host": "%s", "job": "%s", "task": %s, "restarts": %s, "stopped": "%s"}\n' \
        "$name" "$1" "$2" "$start" "$3" "$host" "$job" "$task" "$restarts" "$stopped" > "$part" && mv -f -- "$part" "$file"
}

finish() {
    local state=failed
    if [ "$1" -eq 0 ]; then state=done; elif [ -n "$stopped" ]; then state=interrupted; fi
    say "$state" "$1" "\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\""
    exit "$1"
}

give_up() {
    printf 'qsmprep: %s\n' "$2" >&2
    finish "$1"
}

stop() {
    stopped=$1
    if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null; fi
}
trap 'stop "time limit"' USR1
trap 'stop "told to stop"' TERM

mkdir -p -- "$job_dir/status" || exit 73
say running null null || give_up 73 "the status cannot be written. File: $job_dir/status. Do: free space there."
printf '== %s of %s: job %s, task %s, try %s, on %s at %s\n' "$name" "$out_dir" "$job" "$task" "$((restarts + 1))" "$host" "$start"

if [ -n "$scratch_variable" ] && [ -z "${!scratch_variable:-}" ]; then
    give_up 73 "$scratch_variable is not set on $host. Expected: the folder of the node that --scratch names. Do: give another."
fi

# The work folder: shared by all nodes, or on the node, with a copy among the shared ones while there is work left.
kept=$work/$name
here=$kept
if [ -n "$scratch" ]; then here=$scratch/qsmprep-$(id -u)-$key/$name; fi
mkdir -p -- "$(dirname -- "$here")" || give_up 73 "the work folder cannot be made. File: $here. Do: give another with --work-dir or --scratch."
if [ "$here" != "$kept" ] && [ ! -e "$here" ] && [ -d "$kept" ]; then
    rm -rf -- "$here.part"
    if cp -a -- "$kept" "$here.part" && mv -- "$here.part" "$here"; then
        printf '== goes on from %s\n' "$kept"
    else
        rm -rf -- "$here.part"
    fi
fi
mkdir -p -- "$here" || give_up 73 "the work folder cannot be made. File: $here. Do: give another with --work-dir or --scratch."

keep() {
    if [ "$here" = "$kept" ]; then return; fi
    mkdir -p -- "$work" && rm -rf -- "$kept.part" && cp -a -- "$here" "$kept.part" && rm -rf -- "$kept" && mv -- "$kept.part" "$kept" &&
        printf '== kept what is done in %s\n' "$kept"
}

if [ -n "$container" ]; then
    runtime=$(command -v apptainer || command -v singularity) ||
        give_up 66 "neither apptainer nor singularity is on the PATH of $host. Do: load it with --setup, for example --setup 'module load apptainer'."
    [ -r "$container" ] || give_up 66 "the container image cannot be read on $host. File: $container."
    command=("$runtime" exec --cleanenv --no-home "${binds[@]}" --bind "$here" "$container" "${command[@]}")
else
    [ -x "${command[0]}" ] || give_up 66 "the environment of qsmprep is not on $host. File: ${command[0]}. Expected: a folder that all nodes see."
fi
command+=(--work-dir "$here")
if [ -n "$label" ]; then command+=(--participant-label "$label"); fi

code=143
if [ -z "$stopped" ]; then
    "${command[@]}" &
    child=$!
    if [ -n "$stopped" ]; then kill -TERM "$child" 2>/dev/null; fi
    while :; do
        wait "$child"
        code=$?
        # a signal ends the waiting, not the child
        if [ "$code" -gt 128 ] && kill -0 "$child" 2>/dev/null; then continue; fi
        break
    done
fi

if [ "$code" -ne 0 ]; then
    # first of all the news: the copy may not be given the time
    if [ -n "$stopped" ]; then say interrupted "$code" "\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\""; fi
    keep
elif [ "$here" != "$kept" ]; then
    rm -rf -- "$here" "$kept"
fi
finish "$code"
