"""Every failure that is expected, with the exit status it gives a command; imports nothing of ours.

    status  error             what has happened
    0                         nothing
    1                         nobody expected it: a traceback shows where
    2       InputError        what was given cannot be used; so do OSError (no such file, no answer
                              from the hub) and ModuleNotFoundError (an extra is not installed)
    2       DoesNotFit        of which: a plan that no device has the memory for
    3       DivergedError     the loss is no longer a finite number
    4       LostProcessError  another process of the job has died
    130     Interrupted       Ctrl-C
    143     Preempted         SIGTERM

The last two are what a shell makes of a process that SIGINT or SIGTERM has ended. Only what our own
code raises is an `InputError`: a ValueError of JAX, NumPy or Python is a bug, and keeps its
traceback.
"""

from __future__ import annotations

from typing import ClassVar


class JaxbertError(Exception):
    """An expected failure: its message, in one line, says what is wrong and what to do.

    status: with which a command ends that it stops.
    """

    status: ClassVar[int] = 1


class InputError(JaxbertError, ValueError):
    """What came from outside cannot be used: an argument, a flag, a file, a combination of them.

    Example:
      >>> from jaxbert import BertConfig
      >>> BertConfig(num_labels=0)
      Traceback (most recent call last):
      jaxbert.errors.InputError: BertConfig: num_labels must be a whole number of at least 1, got 0
    """

    status = 2


class DoesNotFit(InputError):
    """A step needs more memory than a device has."""


class DivergedError(JaxbertError, RuntimeError):
    """The loss, the gradient or the parameters are no longer finite numbers.

    Example:
      >>> try:
      ...     raise DivergedError("the loss is nan at step 12")
      ... except DivergedError as error:
      ...     print(f"{error}: exit with {error.status}")
      the loss is nan at step 12: exit with 3
    """

    status = 3


class LostProcessError(JaxbertError, RuntimeError):
    """Another process of the job has died, or cannot be reached: there is no going on."""

    status = 4


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, granted between two steps. What there was to save is saved."""

    status: ClassVar[int] = 130


class Preempted(KeyboardInterrupt):
    """SIGTERM: the machine is being taken away. What there was to save is saved."""

    status: ClassVar[int] = 143
