"""Bytes and a generator of random numbers -> other bytes."""

import contextlib
import copy
import json

DEEP = b"[" * 100_000
LONG = b"9" * 5000  # Python makes no number of more than 4300 digits ...
MANY_DIGITS = "9...9"  # ... and so it writes none
# What readers of text stumble over.
WORDS = (
    b'"', b"'", b",", b"\t", b"\n", b"\r", b"\r\n", b"\0", b"\\", b"{", b"}", b"[", b"]", b"=",
    b"#", b"null", b"true", b"NaN", b"Infinity", b"1e999", b"-1", b"0.5", b"\xff", b"\xed\xa0\x80",
    b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\x1b[31m", b"\\ud800", b"a" * 70_000, LONG,
)  # fmt: skip
# What stands in JSON or TOML in the place of what is wanted.
VALUES = (
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("inf"),
    float("nan"), MANY_DIGITS, "", "x", "-1", "\x1b[31m", "\u202e", "\ud800", "a" * 2000,
    [], {}, [None], [[]], ["x", "x"], [1e999], {"x": 1}, {"": None}, {"0": "a", "1": "a"},
    {"x": {"x": {"x": []}}},
)  # fmt: skip


def mutated(content, rng):
    """With one to four bytes or numbers changed, a part cut out, doubled, or the end cut off."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        if not content:
            break
        at, kind = int(rng.integers(len(content))), rng.integers(7)
        length = int(rng.integers(1, 9))
        if kind == 0:
            content[at] ^= 1 << rng.integers(8)
        elif kind == 1:
            content[at] = rng.integers(256)
        elif kind == 2:
            content[at : at + length] = rng.choice([b"\0", b"\xff", b"\x7f"]) * length
        elif kind == 3:
            del content[at : at + length]
        elif kind == 4:
            content[at:at] = content[at : at + length * 4]
        elif kind == 5:
            other = int(rng.integers(len(content)))
            content[at : at + length] = content[other : other + length]
        elif rng.random() < 0.3:
            del content[at:]
    return bytes(content)


def mutated_text(content, rng):
    """The same, or with words put in that readers of text stumble over."""
    if rng.random() < 0.4:
        return mutated(content, rng)
    for _ in range(rng.integers(1, 4)):
        at, length = int(rng.integers(len(content) + 1)), int(rng.integers(6))
        word = WORDS[rng.integers(len(WORDS))]
        content = content[:at] + word + content[at + length :]
    return DEEP if rng.random() < 0.005 else content


def mutated_json(content, rng):
    """With values and keys of the JSON in it changed; now and then as text."""
    if rng.random() < 0.3:
        return mutated_text(content, rng)
    value = json.loads(content)
    for _ in range(rng.integers(1, 4)):
        value = _changed(value, rng)
    return json.dumps(value, indent=1).encode().replace(b'"%s"' % MANY_DIGITS.encode(), LONG)


def mutated_json_lines(content, rng):
    """The same of one of its lines."""
    lines = content.splitlines(keepends=True)
    at = int(rng.integers(len(lines)))
    lines[at] = mutated_json(lines[at], rng).replace(b"\n", b" ") + b"\n"
    return b"".join(lines)


def _changed(value, rng):
    """One value, wherever in it, is another or gone, or stands under another name."""
    places = list(_places(value))
    if not places or rng.random() < 0.02:
        return _some_value(rng)
    holder, key = places[rng.integers(len(places))]
    kind = rng.random()
    with contextlib.suppress(RecursionError):
        if kind < 0.7:
            holder[key] = _some_value(rng)
        elif kind < 0.85:
            del holder[key]
        elif isinstance(holder, dict):
            other, _ = places[rng.integers(len(places))]
            name = str(_some_value(rng)) if other is holder else key
            holder[name] = holder.pop(key)
        else:
            holder.insert(key, holder[key])
    return value


def _some_value(rng):
    return copy.deepcopy(VALUES[rng.integers(len(VALUES))])


def _places(value):
    """(object or array, key) of everything in it."""
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    for key in list(keys):
        yield value, key
        yield from _places(value[key])
