"""A failed allocation is a sentence, leaves a record, and gives the memory back."""

import weakref

import pytest
import torch

from labkit.errors import LabkitError
from labkit.memory.process import shortage
from labkit.runs import records
from labkit.train.run import train
from labkit.train.trainer import LabTrainer


def allocate_too_much() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def test_what_pytorch_says_about_memory_is_understood():
    with pytest.raises(RuntimeError) as caught:
        allocate_too_much()
    assert shortage.is_shortage(caught.value)
    assert shortage.is_shortage(MemoryError())
    assert shortage.is_shortage(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert not shortage.is_shortage(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not shortage.is_shortage(LabkitError("out of memory is said already"))


def test_the_memory_of_the_failed_run_is_free_again():
    kept = []

    def run() -> None:
        model = torch.nn.Linear(4, 4)
        kept.append(weakref.ref(model))
        allocate_too_much()

    with pytest.raises(LabkitError) as caught, shortage.explained("a run"):
        run()
    assert caught.value is not None, "held on to, as a notebook holds on to the last error"
    assert kept[0]() is None


@pytest.mark.parametrize(
    ("error", "size"),
    [
        (RuntimeError("can't allocate memory: tried to allocate 1073741824 bytes"), "1.00 GiB"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB."), "512.00 MiB"),
        (MemoryError(), "more"),
    ],
)  # fmt: skip
def test_the_sentence_says_how_much_was_asked_for(error, size):
    with (
        pytest.raises(LabkitError, match=f"^a run ran out of memory when it asked for {size}: "),
        shortage.explained("a run"),
    ):
        raise error


def test_other_errors_pass_as_they_are():
    with pytest.raises(ZeroDivisionError), shortage.explained("a run"):
        _ = 1 / 0


def test_training_that_runs_out_of_memory_is_a_sentence_and_a_record(tiny_run, runs, monkeypatch):
    step = LabTrainer.training_step

    def third_fails(self, *arguments, **named):
        if self.state.global_step == 2:
            allocate_too_much()
        return step(self, *arguments, **named)

    monkeypatch.setattr(LabTrainer, "training_step", third_fails)
    with pytest.raises(LabkitError, match="run-1 ran out of memory .*per_device_train_batch_size"):
        train(tiny_run(name="run-1"), quiet=True)
    record = records.load("run-1")
    assert record.status == "failed" and len(record.steps) == 2
    monkeypatch.undo()
    monkeypatch.setenv("LABKIT_RUNS", str(runs))
    assert train(tiny_run(name="run-1"), quiet=True).status == "done"
