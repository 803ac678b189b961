#!/usr/bin/env bash
# Runs a command on all workers of one or several TPU slices, as Cloud TPU VMs:
#
#     export TPU=kdjax ZONE=us-east5-b TYPE=v6e-16 VERSION=v2-alpha-tpuv6e
#     launch/tpu_vm.sh create      # asks for the slices, and waits until they are there
#     launch/tpu_vm.sh install     # this checkout's last commit, on all workers
#     launch/tpu_vm.sh run python -m kdjax.main --config=kdjax:gpt_small \
#         --workdir=/shared/run --config.cache_dir=/shared/cache
#
# `run` watches until the command is done. It starts all workers again when one fails,
# and when the slices are taken away it gets new ones. Leaving it (Ctrl-C) leaves the
# workers running: the same line watches again.
#
#     launch/tpu_vm.sh status      # what each worker is at
#     launch/tpu_vm.sh tail        # the log of the first worker, as it grows
#     launch/tpu_vm.sh stop        # on all workers; a run saves first
#     launch/tpu_vm.sh delete      # the slices: they cost until then
#
# Also read: PROJECT; SLICES, how many (1); SPOT=1, for machines that may be taken away;
# RETRIES, failures in a row before it gives up (3), where one that comes after STEADY
# seconds (1800) is no longer in a row; EVERY, seconds between looks (30).
set -euo pipefail
cd "$(dirname "$0")/.."

readonly TPU=${TPU:?is the name of the TPU} ZONE=${ZONE:?is the zone of the TPU}
readonly SLICES=${SLICES:-1} RETRIES=${RETRIES:-3} STEADY=${STEADY:-1800}
readonly EVERY=${EVERY:-30}
# On a worker: kdjax/ is the checkout, kdjax-run/ the command's process, log and exit code.
readonly HERE=kdjax-run

say() { echo "tpu_vm: $*" >&2; }

tpus() { # gcloud compute tpus GROUP VERB ..., in the zone and project
    gcloud compute tpus "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"}
}

nodes() {
    if ((SLICES == 1)); then
        echo "$TPU"
    else
        seq -f "$TPU-%g" 0 $((SLICES - 1))
    fi
}

on_all() { # SCRIPT: runs it on all workers of all slices at once
    local node pids=() failed=0
    for node in $(nodes); do
        tpus tpu-vm ssh "$node" --worker=all --command="$1" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
    return $failed
}

state() { tpus queued-resources describe "$TPU" --format='value(state.state)'; }

create() {
    local names=(--node-id="$TPU")
    ((SLICES == 1)) || names=(--node-count="$SLICES" --node-prefix="$TPU")
    tpus queued-resources create "$TPU" "${names[@]}" ${SPOT:+--spot} \
        --accelerator-type="${TYPE:?is the type, as v6e-16}" \
        --runtime-version="${VERSION:?is the software, as v2-alpha-tpuv6e}"
    local found
    until found=$(state) && [[ $found == ACTIVE ]]; do
        [[ $found != FAILED ]] || { say "no TPU was given: FAILED"; return 1; }
        say "waiting for the TPU: ${found:-unknown}"
        sleep "$EVERY"
    done
}

delete() { tpus queued-resources delete "$TPU" --force --quiet; }

install() {
    local archive node
    archive=$(mktemp -d)/kdjax.tgz
    git archive --format=tgz --output="$archive" HEAD
    for node in $(nodes); do
        tpus tpu-vm scp "$archive" "$node:" --worker=all
    done
    # The images' own Python is older than kdjax needs.
    on_all 'set -e; mkdir -p kdjax; tar -xzf kdjax.tgz -C kdjax
        python3 -m pip install --quiet --user uv
        ~/.local/bin/uv venv --quiet --allow-existing --python 3.12 kdjax/.venv
        ~/.local/bin/uv pip install --quiet --python kdjax/.venv/bin/python "kdjax[tpu] @ ./kdjax"'
}

start() { # COMMAND ...: on all workers, without waiting for it
    local line
    printf -v line '%q ' "$@"
    # The shell gets the signals too, and lives on to write the exit code.
    line="trap : TERM; $line; echo \$? > ~/$HERE/exit.new; mv ~/$HERE/exit.new ~/$HERE/exit"
    on_all "mkdir -p $HERE kdjax; rm -f $HERE/exit $HERE/stopped; cd kdjax
        PATH=\$PWD/.venv/bin:\$PATH setsid nohup bash -c $(printf %q "$line") \
            > ~/$HERE/log 2>&1 < /dev/null & echo \$! > ~/$HERE/pid"
}

end() { # asks, waits for two minutes, and kills
    on_all "pid=\$(cat $HERE/pid 2>/dev/null) || exit 0
        [ ! -e $HERE/exit ] && kill -TERM -- -\$pid 2>/dev/null || exit 0
        for _ in \$(seq 120); do [ -e $HERE/exit ] && exit 0; sleep 1; done
        kill -KILL -- -\$pid"
}

stop() { # for good: a `run` that watches ends too
    on_all "mkdir -p $HERE; touch $HERE/stopped" || true
    end
}

status() { # a line for each worker: none, running, stopped, lost or its exit code
    on_all "cd $HERE 2>/dev/null || { echo kdjax: none; exit; }
        if [ -e exit ] && [ -e stopped ]; then echo kdjax: stopped
        elif [ -e exit ]; then echo kdjax: \$(cat exit)
        elif [ ! -e pid ]; then echo kdjax: none
        elif kill -0 -- -\$(cat pid) 2>/dev/null; then echo kdjax: running
        else echo kdjax: lost; fi"
}

outcome() { # the worst that is known of all workers
    local found code
    if ! found=$(status 2>/dev/null | sed -n 's/^kdjax: //p'); then
        # A worker that cannot be reached may be back at the next look.
        found=$(state 2>/dev/null) || found=
        [[ $found == ACTIVE ]] && echo running || echo gone
        return
    fi
    for code in stopped 2 130; do # the last two: a mistake, Ctrl-C
        grep -qx "$code" <<<"$found" && echo "$code" && return
    done
    if grep -qvxE 'running|none|0|42' <<<"$found"; then
        grep -m1 -vxE 'running|none|0|42' <<<"$found"
    elif grep -qx running <<<"$found"; then
        echo running # those that have ended wait for nobody
    else
        sort -r <<<"$found" | head -n1 # all alike: none, 42 or 0
    fi
}

run() { # COMMAND ...: until it is done
    (($#)) || { say "no command: write it after \`run\`"; return 2; }
    local failures=0 began=$SECONDS code
    code=$(outcome)
    [[ $code == running || $code == gone ]] || code=none # of an earlier command
    while true; do
        case $code in
        running) ;;
        0)
            say "done"
            return 0
            ;;
        stopped)
            say "stopped"
            return 42
            ;;
        2 | 130)
            end
            return "$code"
            ;;
        none) ;;
        gone)
            say "the TPU was taken away; asking for another"
            delete || true
            create
            install
            ;;
        42) say "stopped and saved; starting again" ;;
        *)
            ((SECONDS - began < STEADY)) || failures=0
            end || true
            if ((++failures > RETRIES)); then
                say "failed with $code; giving up after $RETRIES restarts"
                return 1
            fi
            say "failed with $code; starting all again ($failures of $RETRIES)"
            ;;
        esac
        if [[ $code != running ]]; then
            start "$@" || say "not all workers could be reached"
            began=$SECONDS
        fi
        sleep "$EVERY"
        code=$(outcome)
    done
}

follow() {
    tpus tpu-vm ssh "$(nodes | head -n1)" --worker=0 --command="tail -n 40 -F $HERE/log"
}

case ${1:-} in
create | delete | install | run | status | stop) "$@" ;;
tail) follow ;;
*)
    sed -n '2,/^set/{s/^# \{0,1\}//;/^set/!p}' "$0" >&2
    exit 2
    ;;
esac
