"""Full disks, flipped bits, processes that die; `python -m tests.faults.kills --help`."""
