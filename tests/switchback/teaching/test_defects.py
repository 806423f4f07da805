"""Each defect of the original fails the check that labkit's own version passes."""

import inspect

import pytest
import torch

from labkit.switchback.teaching import defects


@pytest.mark.parametrize("number", defects.DEFECTS)
def test_the_check_fails_on_the_defect_and_passes_on_ours(number):
    defect = defects.DEFECTS[number]
    with pytest.raises(AssertionError) as failure:
        defect.check(defect.broken)
    assert len(str(failure.value).split()) > 3, "it says what went wrong"
    defect.check(defect.sound)


@pytest.mark.parametrize("number", defects.DEFECTS)
def test_showing_gives_code_and_revealing_explains(number, capsys):
    defects.show(number)
    code = capsys.readouterr().out
    assert "def " in code and "TEACHING" not in code and '"""' not in code
    defects.reveal(number)
    explained = capsys.readouterr().out
    assert "this code" in explained and "labkit's   passes" in explained
    assert max(map(len, explained.splitlines())) <= 96


def test_reveal_notices_a_check_that_no_longer_finds_its_defect(monkeypatch):
    fixed = defects.Defect(**vars(defects.DEFECTS[6]) | {"broken": defects.sound_linear})
    monkeypatch.setitem(defects.DEFECTS, 6, fixed)
    with pytest.raises(AssertionError, match="check 6 no longer finds its defect"):
        defects.reveal(6)


def test_a_saved_tensor_hook_never_sees_what_the_first_defect_saves():
    def packed(linear) -> int:
        seen = []
        x, w = torch.ones(2, 4, requires_grad=True), torch.ones(3, 4, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
            linear(x, w, None)
        return len(seen)

    assert packed(defects.defect_1) == 0 and packed(defects.sound_linear) == 2


@pytest.mark.parametrize("number", [2, 4, 6])
def test_defects_are_right_where_the_original_was_tested(number):
    # Contiguous float16 of ordinary size, one program deep: what makes them hard to see.
    x, w = torch.randn(13, 83).half(), torch.randn(332, 83).half()
    bias = torch.randn(332).half()
    found = defects.DEFECTS[number].broken(x, w, bias).float()
    torch.testing.assert_close(found, defects.sound_linear(x, w, bias).float(), rtol=2e-3, atol=0.1)


def test_the_file_says_what_it_is():
    assert inspect.getdoc(defects).startswith("TEACHING MATERIAL")
