"""The hash that dropout and masking draw by, in Python's integers.

A run that is resumed by a later version goes on with the masks that it began with, so they may
never change.
"""

GOLDEN, WORD = 0x9E3779B9, 2**32


def mixed(x):
    """As the hash-prospector's README writes it in C."""
    x ^= x >> 16
    x = x * 0x21F0AAAD % WORD
    x ^= x >> 15
    x = x * 0xD35A2D97 % WORD
    return x ^ x >> 15


def key_by_hand(seed, step):
    return mixed(mixed((seed + GOLDEN) % WORD) ^ (step * GOLDEN % WORD))


def token_by_hand(key, site, token):
    return mixed(mixed((key + site * GOLDEN) % WORD) ^ mixed(token))
