"""What may happen to a file or folder: by copying, disks and exporters, or by intent."""

import json
import math
import random
import re
import struct
from copy import deepcopy
from typing import Any

HUGE = 10**12
COUNTS = (HUGE, 2**31, 2**32 - 1, 10**9, 0, -1)
# What stands in JSON and YAML where something else should.
STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 10**6, 2**31, 10**12, 10**30, 0.5, 1e-320, 1e308, math.nan, -math.inf),
    *("", "x", "3", "../../outside", "/etc/passwd", "a\x00b", "\x1b[2J", "\udcff", "é" * 300),
    *("x" * 10**5, "${oc.env:HOME}", "!!python/name:os.system", "*a", [], {}, [[]]),
    *([None] * 70_000, [1] * 5, {"a": {"b": 1}}, [-1, 10**9], ["a", "a"]),
)
DEEP = 20_000


def damage(data: bytes, draw: random.Random) -> bytes:
    """One to three damages of a kind that copying, disks or exporters do."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = draw.choice(DAMAGES)(data, draw)
    return data


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8) if data else 0):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def flip_early(data: bytes, draw: random.Random) -> bytes:
    """Flip where headers are."""
    return flip(data[:400], draw) + data[400:]


def insert(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.randbytes(draw.randint(1, 64)) + data[at:]


def delete(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + data[at + draw.randint(1, 64) :]


def repeat(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[: at + draw.randint(1, 64)] + data[at:]


def count_in_text(data: bytes, draw: random.Random) -> bytes:
    """Replace a number that is written out by an absurd one."""
    numbers = list(re.finditer(rb"\d+", data[:1500]))
    if not numbers:
        return data
    place = draw.choice(numbers)
    return data[: place.start()] + str(draw.choice(COUNTS)).encode() + data[place.end() :]


def count_in_bytes(data: bytes, draw: random.Random) -> bytes:
    """Replace 4 or 8 bytes by an absurd number."""
    code = draw.choice(("<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(code)
    number = draw.choice(COUNTS) % 256**size
    at = draw.randrange(max(len(data) - size, 1))
    return data[:at] + struct.pack(code, number) + data[at + size :]


DAMAGES = (cut, flip, flip_early, insert, delete, repeat, count_in_text, count_in_bytes)


def damage_json(text: str, draw: random.Random) -> bytes:
    """Replace, remove, repeat or nest a value of a JSON document, or damage its bytes."""
    if draw.random() < 0.2:
        return damage(text.encode(), draw)
    if draw.random() < 0.05:
        opening, closing = draw.choice((("[", "]"), ('{"a":', "}")))
        return (opening * DEEP + "1" + closing * DEEP * draw.randint(0, 1)).encode()
    document = json.loads(text)
    for _ in range(draw.choice((1, 1, 1, 2))):
        document = damage_value(document, draw)
    return json.dumps(document).encode()


def damage_value(value: Any, draw: random.Random) -> Any:
    """``value`` with one change somewhere inside."""
    inside: Any = value if isinstance(value, dict | list) and value else None
    if inside is None or draw.random() < 0.15:
        return deepcopy(draw.choice((*STRANGE, [value], {"value": value})))
    key = draw.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
    what = draw.random()
    if what < 0.1:
        del inside[key]
    elif what < 0.2 and isinstance(inside, dict):
        inside[draw.choice(("unknown", "", "__class__", "x" * 1000, "a.b"))] = deepcopy(
            draw.choice(STRANGE)
        )
    elif what < 0.2:
        inside *= draw.choice((2, 1000))
    else:
        inside[key] = damage_value(inside[key], draw)
    return value


def damage_yaml(text: str, draw: random.Random) -> bytes:
    """Replace a value or key of block YAML, nest or repeat it, or damage its bytes."""
    if draw.random() < 0.3:
        return damage(text.encode(), draw)
    lines = text.splitlines()
    at = draw.randrange(len(lines))
    key, colon, _ = lines[at].partition(":")
    strange = draw.choice(STRANGE)
    written = json.dumps(strange) if draw.random() < 0.7 else str(strange)
    if draw.random() < 0.05:
        written = draw.choice("[{") * draw.choice((3, 20, DEEP))
    what = draw.random()
    if what < 0.6:
        lines[at] = f"{key}{colon} {written}"
    elif what < 0.7:
        lines[at] = written[:1000]
    elif what < 0.8:
        lines.insert(at, draw.choice(lines))
    elif what < 0.9:
        del lines[at]
    else:
        lines[at] = f"{'  ' * draw.randint(0, 3)}{lines[at].strip()}"
    return "\n".join(lines).encode(errors="surrogateescape")
