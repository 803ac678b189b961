"""Damage to files and values, chosen by a seed."""

import copy
import json

DEEP = b"[" * 100_000
ODD = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 1.5, 1e308, -1e308),
    *(float("nan"), float("inf"), "", "x", "\0", "\ud800", "a" * 5000, "../x"),
    *([], {}, [[]], [1, 2], ["a"], {"a": 1}, [None]),
)


def damage(content, chance):
    """Returns the bytes of a file as a disk, a kill or a hand may leave them.

    None: the file is gone.
    """
    data = bytearray(content)
    at = chance.randrange(len(data))
    kind = chance.randrange(10)
    if kind == 0:
        return None
    if kind == 1:
        return bytes(data[:at])
    if kind == 2:
        return b"" if chance.random() < 0.5 else bytes(len(data))
    if kind == 3:
        data[at:at] = chance.choice((b"\0", DEEP, b"\xff\xfe", b"\n", b"9" * 5000))
    elif kind == 4:
        return restructured(content, chance)
    elif kind == 5:
        data[at] = chance.randrange(256)
    else:
        data[at] ^= 1 << chance.randrange(8)
    return bytes(data)


def restructured(content, chance):
    """Returns JSON in which something is removed, added, moved or of another type."""
    values = json.loads(content)
    mutate(values, chance)
    return json.dumps(values).encode()


def mutate(values, chance):
    """Changes something somewhere in nested dictionaries and lists."""
    *parents, last = chance.choice([path for path in paths(values) if path])
    place = values
    for key in parents:
        place = place[key]
    kind = chance.randrange(4)
    if kind == 0:
        del place[last]
    elif kind == 1 and isinstance(place, dict):
        place[str(chance.choice(ODD))[:99]] = place.pop(last)
    elif kind == 2 and isinstance(place, list):
        place.insert(0, copy.deepcopy(chance.choice(ODD)))
    else:
        place[last] = copy.deepcopy(chance.choice(ODD))


def paths(values, path=()):
    """Yields the path of every value in nested dictionaries and lists."""
    yield path
    items = ()
    if isinstance(values, dict):
        items = values.items()
    elif isinstance(values, list):
        items = enumerate(values)
    for key, value in items:
        yield from paths(value, (*path, key))
