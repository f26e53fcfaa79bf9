"""Files of TensorBoard's events against another package's reading of them."""

import struct

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from jaxbert.training.events import Events, record

LONG = "train/" + "x" * 300


def events_of(path):
    content, found = path.read_bytes(), []
    while content:
        length = struct.unpack("<Q", content[:8])[0]
        assert struct.unpack("<I", content[8:12])[0] == masked_crc32c(content[:8])
        body, end = content[12 : 12 + length], content[12 + length : 16 + length]
        assert struct.unpack("<I", end)[0] == masked_crc32c(body)
        found.append(Event.FromString(body))
        content = content[16 + length :]
    return found


def test_another_reader_finds_every_scalar(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1234.5)
    events = Events(tmp_path / "tensorboard", 301)
    events.write({"train/loss": 0.1, LONG: float("nan")}, 301)
    events.write({"eval/größe": -2e30}, 100_000)
    events.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    version, start, loss, long, last = events_of(path)
    assert version.file_version == "brain.Event:2"
    assert start.session_log.status == SessionLog.START
    assert start.step == 301
    values = [event.summary.value[0] for event in (loss, long, last)]
    assert [value.tag for value in values] == ["train/loss", LONG, "eval/größe"]
    assert values[0].simple_value == np.float32(0.1)
    assert np.isnan(values[1].simple_value)
    assert values[2].simple_value == pytest.approx(-2e30)
    assert [event.step for event in (loss, long, last)] == [301, 301, 100_000]
    assert {event.wall_time for event in (version, start, loss, long, last)} == {1234.5}


def test_values_are_there_before_the_end(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    events = Events(tmp_path / "tensorboard", 1)
    (path,) = (tmp_path / "tensorboard").iterdir()
    for now[0], there in ((1.0, 2), (31.0, 4), (32.0, 4)):
        events.write({"train/loss": 1.0}, 1)
        assert len(events_of(path)) == there
    events.close()
    assert len(events_of(path)) == 5


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 5000])
def test_a_record_of_any_length(size):
    content = bytes(range(256)) * 20
    made = record(content[:size])
    assert made[:8] == struct.pack("<Q", size)
    assert made[-4:] == struct.pack("<I", masked_crc32c(content[:size]))
