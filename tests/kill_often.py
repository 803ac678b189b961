"""Kills the toy training at random moments, and compares what comes out in the end.

python tests/kill_often.py DIRECTORY KILLS
"""

import json
import os
import pathlib
import random
import signal
import sys
import time

from toy_training import finish, make_program

STEPS = 20


def train(directory):
    """Trains in this process and leaves what came out."""
    found = finish(make_program(STEPS), directory)
    (directory / "found.json").write_text(json.dumps(found))


def end_after(seconds, directory):
    """Trains in a fork for so long, and returns whether it came to its end."""
    child = os.fork()
    if not child:
        code = 1
        try:
            train(directory)
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            assert status == 0, f"it ended by itself with {status}"
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main(directory, kills):
    """Kills runs until there were so many kills; every run goes on to its end."""
    draw, killed, different, number = random.Random(0), 0, 0, 0
    began = time.monotonic()
    assert end_after(600, directory / "straight")
    usual = time.monotonic() - began
    straight = (directory / "straight" / "found.json").read_text()
    while killed < kills:
        number += 1
        place = directory / str(number)
        while not end_after(draw.uniform(0.2, 1.1) * usual, place):
            killed += 1
        different += (place / "found.json").read_text() != straight
        said = f"{killed} kills of {number} runs, {different} of them different"
        print(said, flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
