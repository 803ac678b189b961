"""launch/tpu_vm.sh, with a gcloud whose workers are directories of this machine."""

import os
import shutil
import signal
import subprocess
import time

import pytest
from runs import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("setsid"), reason="it is a script for Linux"),
]
# Each slice has two workers. $FAKE/state is the queued resource's.
GCLOUD = r"""#!/bin/bash
echo "$*" >> "$FAKE/calls"
node=${5%:}
case "$3 $4" in
"queued-resources create")
    echo ACTIVE > "$FAKE/state"
    for name in kdjax kdjax-0 kdjax-1; do
        mkdir -p "$FAKE/$name"/{0,1}/.local/bin
        cp "$FAKE/bin/python3" "$FAKE/$name/0/.local/bin/uv"
        cp "$FAKE/bin/python3" "$FAKE/$name/1/.local/bin/uv"
    done ;;
"queued-resources describe") cat "$FAKE/state" ;;
"queued-resources delete") rm -rf "$FAKE"/kdjax* ;;
"tpu-vm scp") cp "$5" "$FAKE/${6%:}/0"; cp "$5" "$FAKE/${6%:}/1" ;;
"tpu-vm ssh")
    [[ $(cat "$FAKE/state") == ACTIVE ]] || exit 1
    for word in "$@"; do
        case $word in --command=*) script=${word#--command=} ;; esac
    done
    for worker in 0 1; do
        export HOME="$FAKE/$node/$worker"
        (cd "$HOME" && PATH="$FAKE/bin:$PATH" bash -c "$script") || exit 1
    done ;;
esac
"""


@pytest.fixture
def tpu(tmp_path):
    """Returns the environment of the script, and what runs it."""
    (tmp_path / "bin").mkdir()
    for name, text in (("gcloud", GCLOUD), ("python3", "#!/bin/bash\n")):
        path = tmp_path / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    env = os.environ | {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "FAKE": str(tmp_path),
        "TPU": "kdjax",
        "ZONE": "here",
        "TYPE": "v0-8",
        "VERSION": "new",
        "EVERY": "0.1",
    }

    def start(*arguments, **variables):
        return subprocess.Popen(
            ["bash", ROOT / "launch" / "tpu_vm.sh", *map(str, arguments)],
            env=env | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(*arguments, **variables):
        process = start(*arguments, **variables)
        output, errors = process.communicate(timeout=300)
        return process.returncode, output, errors

    call.start, call.place = start, tmp_path
    yield call
    call("stop")


def command(place, text):
    """Returns a command for the workers: `$W` is which, `$N` its number of starts."""
    script = place / "command.sh"
    script.write_text(
        f"W=$(basename $(dirname $HOME))-$(basename $HOME)\necho $W >> {place}/starts\n"
        f"N=$(grep -c $W {place}/starts)\n{text}\n"
    )
    return ("run", "bash", script)


def signal_workers(place, number):
    for pid in place.glob("kdjax/*/kdjax-run/pid"):
        os.killpg(int(pid.read_text()), number)


def starts(place):
    return sorted((place / "starts").read_text().split())


def test_the_slices_are_asked_for_and_get_the_checkout(tpu):
    code, _, errors = tpu("create", SLICES="2", SPOT="1", PROJECT="mine")
    assert code == 0, errors
    made = (tpu.place / "calls").read_text().splitlines()[0].split()
    assert {"--node-count=2", "--node-prefix=kdjax", "--spot", "--zone=here"} < {*made}
    assert {"--accelerator-type=v0-8", "--project=mine"} < {*made}
    code, _, errors = tpu("install", SLICES="2")
    assert code == 0, errors
    for worker in ("kdjax-0/0", "kdjax-0/1", "kdjax-1/0", "kdjax-1/1"):
        assert (tpu.place / worker / "kdjax" / "setup.cfg").exists()


def test_all_workers_start_again_when_one_fails(tpu):
    tpu("create", SLICES="2")
    text = "[ $W-$N == kdjax-1-0-1 ] && exit 7; [ $N == 2 ] && exit 0; sleep 60"
    code, _, errors = tpu(*command(tpu.place, text), SLICES="2")
    assert code == 0, errors
    assert "failed with 7; starting all again (1 of 3)" in errors
    workers = ["kdjax-0-0", "kdjax-0-1", "kdjax-1-0", "kdjax-1-1"]
    assert starts(tpu.place) == sorted(2 * workers)
    assert tpu("status", SLICES="2")[1].splitlines() == ["kdjax: 0"] * 4


def test_failures_in_a_row_end(tpu):
    tpu("create")
    code, _, errors = tpu(*command(tpu.place, "exit 7"), RETRIES="2")
    assert code == 1 and "giving up after 2 restarts" in errors
    assert starts(tpu.place) == ["kdjax-0"] * 3 + ["kdjax-1"] * 3


def test_a_mistake_is_not_tried_again(tpu):
    tpu("create")
    text = "[ $W == kdjax-0 ] && exit 2; sleep 60"
    code, _, _ = tpu(*command(tpu.place, text))
    assert code == 2 and starts(tpu.place) == ["kdjax-0", "kdjax-1"]


def test_what_was_stopped_and_saved_resumes_until_it_is_done(tpu):
    tpu("create")
    text = (
        f"trap 'touch {tpu.place}/saved-$W; exit 42' TERM\n[ $N == 2 ] && exit 0\n"
        "while true; do sleep 0.1; done"
    )
    process = tpu.start(*command(tpu.place, text))
    while not (tpu.place / "starts").exists() or len(starts(tpu.place)) < 2:
        time.sleep(0.05)
    # A second look at the same command starts nothing.
    second = tpu.start(*command(tpu.place, text))
    time.sleep(1)
    second.terminate()
    second.communicate()
    assert tpu("status")[1].split() == ["kdjax:", "running"] * 2
    signal_workers(tpu.place, signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and "saved; starting again" in errors
    assert (tpu.place / "saved-kdjax-0").exists()
    assert (tpu.place / "saved-kdjax-1").exists()
    assert len(starts(tpu.place)) == 4


def test_slices_that_were_taken_away_are_asked_for_again(tpu):
    tpu("create")
    text = "[ $N == 2 ] && exit 0; sleep 60"
    process = tpu.start(*command(tpu.place, text))
    while len([*tpu.place.glob("kdjax/*/kdjax-run/pid")]) < 2:
        time.sleep(0.05)
    time.sleep(1)  # they have been written
    (tpu.place / "state").write_text("SUSPENDED\n")
    signal_workers(tpu.place, signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "taken away; asking for another" in errors
    verbs = [line.split()[3] for line in (tpu.place / "calls").read_text().splitlines()]
    assert [v for v in verbs if v in ("create", "delete")] == [
        *("create", "delete", "create")
    ]
    assert (tpu.place / "kdjax" / "1" / "kdjax" / "setup.cfg").exists()


def test_what_is_stopped_by_hand_stays_so(tpu):
    tpu("create")
    text = "trap 'exit 42' TERM\nwhile true; do sleep 0.1; done"
    process = tpu.start(*command(tpu.place, text))
    while not (tpu.place / "starts").exists() or len(starts(tpu.place)) < 2:
        time.sleep(0.05)
    assert tpu("stop")[0] == 0
    process.communicate(timeout=300)
    assert process.returncode == 42 and len(starts(tpu.place)) == 2
    assert tpu("status")[1].splitlines() == ["kdjax: stopped"] * 2


def test_without_a_verb_it_tells_what_there_is(tpu):
    code, _, errors = tpu()
    assert code == 2 and "tpu_vm.sh create" in errors and "#" not in errors.split()[0]
