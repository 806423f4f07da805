"""Sweeps predict first, keep what they measured and share work; largest batches are the largest."""

import dataclasses
import hashlib
import json
import shutil
import threading
import time

import pytest

from labkit import plots
from labkit.cli import program
from labkit.errors import LabkitError
from labkit.machine import arithmetic
from labkit.memory.process import needs as process
from labkit.memory.process.isolated import DONE, FAILED, OUT_OF_MEMORY, run_in_process
from labkit.memory.settings import StepSettings
from labkit.runs import records
from labkit.sweep import (
    Largest,
    Point,
    largest_batch,
    parse_bytes,
    parse_sizes,
    parse_variants,
    render,
    sweep,
)
from labkit.sweep import batch_sizes as sweeping
from labkit.sweep.batch_sizes import bisect

GIB = 2**30
HELD = 400 * 2**20


def settings_for(**fields):
    # As a sweep has it that is told nothing: in the type that is fast here.
    given = {"model": "tiny-llama", "target": "cpu", "batch_size": 2, "seq_len": 16,
             "dtype": arithmetic.fastest()}  # fmt: skip
    return StepSettings(**{**given, **fields})


@pytest.fixture
def simulated(monkeypatch, runs):
    """Points without processes: they hold what a process holds and what the trace says."""
    calls = []
    for cached in (process._traced, process._held):
        cached.cache_clear()

    def run(settings, *, limit, steps, **options):
        if not steps:
            return {"status": DONE, "detail": "", "held_bytes": HELD}
        calls.append(settings)
        peak = process.traced(settings).peak
        if limit is not None and HELD + process.outside_bytes() + peak > limit:
            return {"status": OUT_OF_MEMORY, "detail": "can't allocate memory"}
        return {"status": DONE, "detail": "", "peak_bytes": peak, "step_seconds": 0.5,
                "process_peak_bytes": HELD + peak, "held_bytes": HELD}  # fmt: skip

    monkeypatch.setattr(sweeping, "run_in_process", run)
    monkeypatch.setattr(process, "run_in_process", run)
    monkeypatch.setattr(sweeping, "memory_available_bytes", lambda: 64 * GIB)
    yield calls
    process._held.cache_clear()


def need(batch, **fields):
    return process.process_needs(settings_for(batch_size=batch, **fields))[1]


def test_a_sweep_predicts_first_and_stops_a_variant_where_memory_ends(simulated):
    peak = process.traced(settings_for(batch_size=4)).peak
    points = list(
        sweep(
            "tiny-llama", batch_sizes=(16, 1, 2, 4, 8, 2), seq_len=16,
            memory_limit=HELD + process.outside_bytes() + peak,
            variants=({}, {"gradient_checkpointing": True}),
        )
    )  # fmt: skip
    plain = [p for p in points if not p.settings.gradient_checkpointing]
    again = [p for p in points if p.settings.gradient_checkpointing]
    assert [p.batch_size for p in plain] == [1, 2, 4, 8]
    assert [p.status for p in plain] == [DONE, DONE, DONE, OUT_OF_MEMORY]
    assert again[0].status == DONE
    for point in points:
        assert point.predicted_process_bytes > HELD + point.predicted_peak_bytes
        assert point.tokens == point.batch_size * 16
    done = plain[0].to_json(samples=101)
    assert done["tokens_per_second"] == pytest.approx(16 / 0.5)
    assert done["seconds_per_token"] == pytest.approx(0.5 / 16)
    assert done["epoch_seconds"] == pytest.approx(101 * 0.5)
    failed = plain[-1].to_json(samples=101)
    assert [failed[k] for k in ("peak_bytes", "step_seconds", "tokens_per_second")] == [None] * 3
    text = render(points, samples=100)
    assert OUT_OF_MEMORY in text and "min/epoch" in text


def test_what_did_not_fit_is_tried_again_once_much_more_is_free(simulated, monkeypatch):
    free = [need(1) // 2]
    monkeypatch.setattr(sweeping, "memory_available_bytes", lambda: free[0])

    def status(**options):
        return sweeping.point_of(settings_for(batch_size=1), **options).status

    assert [status(), status()] == [OUT_OF_MEMORY] * 2 and len(simulated) == 1
    free[0] = round(free[0] * 1.05)
    assert status() == OUT_OF_MEMORY and len(simulated) == 1
    assert status(limit=free[0]) == OUT_OF_MEMORY and len(simulated) == 2
    free[0] = 64 * GIB
    assert status() == DONE and len(simulated) == 3
    assert status(limit=need(1) // 2) == OUT_OF_MEMORY


def test_accumulated_samples_count():
    settings = settings_for(batch_size=2, gradient_accumulation_steps=4)
    point = Point(
        settings=settings, status=DONE, predicted_peak_bytes=1, predicted_process_bytes=2,
        memory_limit_bytes=None, step_seconds=2.0, steps=1,
    )  # fmt: skip
    assert (point.samples, point.tokens, point.tokens_per_second) == (8, 128, 64)
    assert point.epoch_seconds(17) == 6.0


def test_a_sweep_that_was_stopped_goes_on(simulated, monkeypatch):
    run = sweeping.run_in_process

    def go(**options):
        return list(
            sweep("tiny-llama", batch_sizes=(1, 2, 3), seq_len=16, **{"steps": 3, **options})
        )

    def stopped(settings, **options):
        if settings.batch_size == 2:
            raise KeyboardInterrupt
        return run(settings, **options)

    monkeypatch.setattr(sweeping, "run_in_process", stopped)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert len(simulated) == 1
    monkeypatch.setattr(sweeping, "run_in_process", run)
    whole = go()
    assert [s.batch_size for s in simulated] == [1, 2, 3]
    assert go() == whole and len(simulated) == 3
    # Fewer timed steps are in what is kept; more are not; and the limit is part of the question.
    assert go(steps=2) == whole and len(simulated) == 3
    go(steps=4)
    assert len(simulated) == 6
    go(memory_limit=GIB)
    assert len(simulated) == 9
    assert len(go(fresh=True)) == 3 and len(simulated) == 12


def test_a_damaged_point_is_measured_again(simulated, runs):
    (point,) = sweep("tiny-llama", batch_sizes=(1,), seq_len=16)
    (file,) = runs.glob("sweeps/point-*.json")
    file.write_text(file.read_text()[:100])
    assert list(sweep("tiny-llama", batch_sizes=(1,), seq_len=16)) == [point]
    assert len(simulated) == 2
    assert json.loads(file.read_text())["settings"]["model"] == "tiny-llama"


@pytest.mark.parametrize("inner", ["", "model"])
def test_another_model_in_the_same_folder_is_measured_for_itself(
    simulated, tmp_path, monkeypatch, tiny_llama, inner
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine" / inner
    shutil.copytree(tiny_llama, folder)

    def go():
        process._traced.cache_clear()
        return list(sweep("mine", batch_sizes=(1,), seq_len=16))

    go()
    go()
    assert len(simulated) == 1
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 256}))
    go()
    assert len(simulated) == 2


def test_a_named_model_keeps_the_points_that_it_has(monkeypatch):
    """Its key is what it was before models in folders had one by what they hold."""
    settings = settings_for()
    default = {each.name: each.default for each in dataclasses.fields(settings)}
    stated = {k: v for k, v in dataclasses.asdict(settings).items()
              if k not in sweeping.LATER or v != default[k]}  # fmt: skip
    monkeypatch.setattr(sweeping, "thread_count", lambda: 2)
    text = json.dumps([stated, GIB, records.versions(), "2"], sort_keys=True, default=list)
    assert sweeping._key(settings, GIB) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_two_sweeps_at_once_share_the_work(simulated, monkeypatch):
    together, run, answers = [0, 0], sweeping.run_in_process, {}

    def slow(settings, **options):
        together[0] += 1
        together[1] = max(together)
        time.sleep(0.1)
        together[0] -= 1
        return run(settings, **options)

    def go(name):
        answers[name] = list(sweep("tiny-llama", batch_sizes=(1, 2, 3), seq_len=16))

    process.process_needs(settings_for(batch_size=1))
    monkeypatch.setattr(sweeping, "process_needs", lambda settings: (1, 2))
    monkeypatch.setattr(sweeping, "run_in_process", slow)
    threads = [threading.Thread(target=go, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers["a"] == answers["b"] and len(answers["a"]) == 3
    assert len(simulated) == 3 and together[1] == 1


def test_a_step_that_fails_is_an_error_and_nothing_is_kept(simulated, monkeypatch, runs):
    monkeypatch.setattr(
        sweeping, "run_in_process", lambda *a, **o: {"status": FAILED, "detail": "no such kernel"}
    )
    with pytest.raises(LabkitError, match="tiny-llama with batch 1 failed: no such kernel"):
        list(sweep("tiny-llama", batch_sizes=(1,), seq_len=16))
    assert list(runs.glob("sweeps/point-*")) == []


@pytest.mark.parametrize("batch", [1, 3, 7, 19])
def test_predicted_is_measured_or_a_little_lower_and_never_higher(simulated, batch):
    for limit in (need(batch, seq_len=512), need(batch + 1, seq_len=512) - 1):
        result = largest_batch("tiny-llama", memory_limit=limit, seq_len=512)
        assert result.predicted == batch
        assert result.measured >= result.predicted
        sizes = {point.batch_size: point.status for point in result.points}
        assert sizes[result.measured] == DONE and sizes[result.measured + 1] == OUT_OF_MEMORY
        assert result.holds is True


def test_what_holds_and_what_does_not():
    for predicted, measured, holds in [(3, 3, True), (2, 3, True), (1, 3, False), (4, 3, False),
                                       (18, 20, True), (17, 20, False), (0, 1, True),
                                       (8, 9, True), (7, 9, False)]:  # fmt: skip
        found = Largest(
            settings=settings_for(), memory_limit_bytes=1, predicted=predicted, measured=measured
        )
        assert found.holds is holds


@pytest.mark.parametrize("start", [0, 1, 2, 7, 8, 30])
def test_bisection_finds_the_largest_and_asks_nothing_twice(start):
    for largest in range(40):
        asked = []

        def runs(batch, largest=largest, asked=asked):
            asked.append(batch)
            return batch <= largest

        assert bisect(runs, start=start) == largest
        assert len(asked) == len(set(asked))
        if start == largest > 0:
            assert asked == [largest, largest + 1]


def test_the_largest_under_a_limit_is_found_on_lines_with_bends():
    for bend in (1, 5, 20):
        for limit in range(100, 400, 7):
            asked = []

            def needs(batch, bend=bend, asked=asked):
                asked.append(batch)
                return max(90 + batch, 80 + 6 * batch - 5 * min(batch, bend))

            found = process.largest_under(needs, limit)
            assert needs(found) <= limit < needs(found + 1)
            assert len(asked) < 16


def test_a_device_that_is_not_here_is_predicted(simulated, runs):
    points = list(
        sweep("tiny-llama", device="t4", batch_sizes=(1, 1 << 16), seq_len=512, method="full")
    )
    assert [p.status for p in points] == ["predicted"] * 2
    assert [p.fits for p in points] == [True, False]
    low, high = points[0].predicted_step_seconds
    assert 0 < low < high and points[0].step_seconds is None
    assert simulated == [] and not runs.exists()
    figure, alt = plots.batch_sweep(points)
    ends = (points[0].tokens / seconds for seconds in (high, low))
    assert "{:,.0f} to {:,.0f} tokens/s predicted".format(*ends) in alt
    assert f"the card has {points[0].memory_limit_bytes / GIB:.1f} GiB" in alt
    assert [list(axes.get_xticks()) for axes in figure.axes] == [[1, 1 << 16]] * 2
    found = largest_batch("tiny-llama", device="t4", seq_len=512, method="full")
    assert 1 <= found.predicted < 1 << 16 and found.measured is None and found.holds is None


def test_the_figure_shows_every_variant_and_what_does_not_fit(simulated):
    points = list(
        sweep(
            "tiny-llama", batch_sizes=(1, 2, 64), seq_len=64, memory_limit=need(2, seq_len=64),
            variants=({}, {"gradient_accumulation_steps": 2}),
        )
    )  # fmt: skip
    figure, alt = plots.batch_sweep(points)
    left, right = figure.axes
    labels = {text.get_text() for text in right.get_legend().get_texts()}
    assert {"lora, predicted", "lora, measured", "lora, 2 accumulated, predicted"} <= labels
    drawn = left.get_lines()[0]
    assert list(drawn.get_xdata()) == [1, 2]
    assert list(drawn.get_ydata()) == [p.tokens_per_second for p in points[:2]]
    crosses = [line for line in right.get_lines() if line.get_marker() == "x"]
    assert list(crosses[0].get_xdata()) == [64]
    assert all("(" in axes.get_xlabel() for axes in figure.axes)
    # A mark at the very top would be cut in half.
    assert all(axes.get_ylim()[1] > 1.04 * axes.dataLim.ymax for axes in figure.axes)
    assert "tokens/s" in alt and plots.png(figure, alt=alt).startswith(b"\x89PNG")


def test_sizes_and_variants_are_read():
    assert parse_bytes("3GiB") == 3 * GIB and parse_bytes(" 1.5 gib ") == 3 * GIB // 2
    assert parse_bytes("2GB") == 2 * 10**9 and parse_bytes("4096") == 4096
    assert parse_sizes("4, 1,2,2") == [1, 2, 4]
    assert parse_variants("plain,checkpointing, accumulation=4") == [
        {}, {"gradient_checkpointing": True}, {"gradient_accumulation_steps": 4},
    ]  # fmt: skip


def test_the_command_prints_one_object(simulated, capsys, tmp_path):
    picture = tmp_path / "sweep.png"
    limit = need(3, seq_len=512)
    words = ["sweep", "tiny-llama", "--device", "cpu", "--seq-len", "512", "--batch-sizes", "1,2"]
    with pytest.raises(SystemExit) as stop:
        program.main([*words, "--memory-limit", str(limit), "--plot", str(picture), "--json"])
    assert not stop.value.code
    out, err = capsys.readouterr()
    printed = json.loads(out)
    assert {"model", "method", "device", "seq_len", "memory_limit_bytes", "samples", "points",
            "largest"} == set(printed)  # fmt: skip
    assert [p["batch_size"] for p in printed["points"]] == [1, 2]
    assert printed["samples"] == 2400
    (largest,) = printed["largest"]
    assert largest["predicted"] == 3 and largest["holds"] is True
    assert len(err.splitlines()) == 2 and picture.is_file()


def test_the_command_measures_what_a_figure_states(simulated, capsys):
    words = ["sweep", "tiny-llama", "--device", "cpu", "--batch-sizes", "2", "--seq-len", "64"]
    stated = ["--attention", "eager", "--adapter-dtype", "float16", "--padding", "--repeat-kv",
              "--labelled-tokens", "9"]  # fmt: skip
    with pytest.raises(SystemExit):
        program.main([*words, *stated, "--json"])
    with pytest.raises(SystemExit):
        program.main([*words, "--method", "full", "--no-master-weights", "--json"])
    lora, full = (json.loads(line)["points"][0] for line in capsys.readouterr().out.splitlines())
    wanted = {"attention": "eager", "adapter_dtype": "float16", "padding": True, "repeat_kv": True,
              "labelled_tokens": 9}  # fmt: skip
    assert {key: lora["settings"][key] for key in wanted} == wanted
    assert full["settings"]["master_weights"] is False


def test_the_command_reads_a_run_s_configuration(simulated, capsys, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: tiny-llama\nmethod: lora\nr: 3\nmax_length: 64\nbase: nf4\n")
    words = ["sweep", "--config", str(file), "--device", "t4", "--batch-sizes", "2", "--json"]
    with pytest.raises(SystemExit) as stop:
        program.main(words)
    assert not stop.value.code
    with pytest.raises(SystemExit):
        program.main([*words, "--seq-len", "32", "--r", "5", "--base", "plain"])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["model"], first["method"], first["seq_len"]) == ("tiny-llama", "qlora", 64)
    assert (second["method"], second["seq_len"]) == ("lora", 32)
    settings = [found["points"][0]["settings"] for found in (first, second)]
    assert [(each["lora_r"], each["batch_size"]) for each in settings] == [(3, 2), (5, 2)]
    assert not any(each["cast_adapter_input"] for each in settings), "as labkit train makes them"


BAD = [
    ([], "nothing to sweep: name a MODEL, or a run by --config"),
    (["tiny-llama", "--r", "5"], "sweep has no option --r"),
    (["--config", "lora", "--use-switchback", "true"], "set it to false"),
    (["tiny-lama"], "tiny-llama"),
    (["tiny-llama", "--method", "lorra"], "lora"),
    (["tiny-llama", "--device", "a100"], "did you mean"),
    (["tiny-llama", "--seq-len", "0"], "seq_len must be a whole number above 0"),
    (["tiny-llama", "--batch-sizes", "1,two"], "batch sizes '1,two' are not whole numbers"),
    (["tiny-llama", "--batch-sizes", "0,1"], "batch sizes '0,1' are not whole numbers"),
    (["tiny-llama", "--memory-limit", "lots"], "write a number with B, MB, GB, MiB or GiB"),
    (["tiny-llama", "--memory-limit", "0"], "memory limit must be above 0"),
    (["tiny-llama", "--memory-limit", "9000GiB"], "more than a process may take here"),
    (["tiny-llama", "--variants", "fast"], "write plain, checkpointing or accumulation=N"),
    (["tiny-llama", "--variants", "accumulation=0"], "write plain, checkpointing or"),
    (["tiny-llama", "--sharding", "zero3", "--num-gpus", "4"], "for a device that is predicted"),
    (["tiny-llama", "--method", "prefix", "--variants", "plain,checkpointing"], "choose one"),
    (["tiny-llama", "--lora-target-modules", "q_prj"], "q_proj"),
    (["tiny-llama", "--attention", "flash"], "attention 'flash' is unknown"),
    (["tiny-llama", "--adapter-dtype", "bf8"], "adapter_dtype 'bf8' is unknown"),
    (["tiny-llama", "--master-weights"], "master_weights are for full fine-tuning"),
    (["tiny-llama", "--steps", "0"], "steps"),
    (["smollm2-135m-instruct", "--memory-limit", "450MiB", "--batch-sizes", "1"],
     "below what the weights of smollm2-135m-instruct and the process take"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "sentence"), BAD, ids=[" ".join(w[-2:]) for w, _ in BAD])
def test_a_mistake_is_one_sentence_and_leaves_nothing(simulated, runs, capsys, words, sentence):
    device = [] if "--device" in words else ["--device", "cpu"]
    with pytest.raises(SystemExit) as stop:
        program.main(["sweep", *words, *device, "--json"])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    assert len(err.splitlines()) == 1 and sentence in err
    assert not list(runs.glob("**/point-*"))


def test_a_folder_that_cannot_be_written_is_one_sentence(simulated, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LabkitError, match="cannot be written"):
        list(sweep("tiny-llama", batch_sizes=(1,), directory=tmp_path / "file" / "x"))


def test_a_real_process_stays_within_its_prediction(runs):
    # No simulation here: a step that would not fit one prediction lower fits under this one.
    settings = dataclasses.replace(settings_for(), batch_size=64, seq_len=256)
    limit = process.process_needs(settings)[1]
    answer = run_in_process(settings, limit=limit, steps=1, warmup=1)
    assert answer["status"] == DONE, answer
    assert answer["process_peak_bytes"] <= limit
    assert records.runs_dir() == runs


def test_small_blocks_leave_gaps_in_the_heap_and_large_ones_do_not():
    def gap(**fields):
        settings = settings_for(model="smollm2-135m-instruct", **fields)
        return process.heap_gap_bytes(settings), process.traced(settings).trained

    found, trained = gap(method="lora", lora_r=8)
    assert found == pytest.approx(trained / 2, rel=1e-6)
    # At r = 64 only the keys' and values' B, 192 × 64 in float32, are below 128 KiB.
    found, trained = gap(method="lora", lora_r=64)
    widths = 2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536)
    assert found == pytest.approx(trained * 2 * 192 / widths / 2, rel=1e-6)
    assert gap(method="full")[0] == 0


def test_what_is_left_for_the_table_counts_outside_the_loss_only(simulated, monkeypatch):
    def needs(dtype="bfloat16", **peaks):
        traced = process.Traced(peak=max(peaks.values()), weights=10, trained=0, **peaks)
        monkeypatch.setattr(process, "traced", lambda settings: traced)
        return process.process_needs(settings_for(method="full", dtype=dtype))[1]

    largest = process.largest_weight_bytes(settings_for(method="full", dtype="bfloat16"))
    big = 2**30
    assert needs(loss_peak=big, other_peak=big - largest) == needs(loss_peak=big, other_peak=0)
    assert needs(loss_peak=0, other_peak=big) == needs(loss_peak=big, other_peak=0) + largest
    in_loss, outside = {"loss_peak": big, "other_peak": 0}, {"loss_peak": 0, "other_peak": big}
    assert needs("float32", **outside) == needs("float32", **in_loss)


def test_a_float32_process_stays_within_its_prediction_and_close_to_it(runs):
    # No simulation: with a tied table and all weights trained the peak is where two of its
    # gradients are summed, which is what float32 takes more of than bfloat16 under autocast.
    settings = settings_for(
        method="full", dtype="float32", gradient_checkpointing=True, batch_size=1,
        config_overrides={"vocab_size": 300_000},
    )  # fmt: skip
    table = 300_000 * 64 * 4
    assert process.traced(settings).other_peak - process.traced(settings).loss_peak > table / 2
    need = process.process_needs(settings)[1]
    answer = run_in_process(settings, limit=need, steps=1, warmup=1)
    assert answer["status"] == DONE, answer
    # Less than a table was left over: without room for the sum beside its addends it cannot end.
    answer = run_in_process(settings, limit=need - table, steps=1, warmup=1)
    assert answer["status"] == OUT_OF_MEMORY, answer
