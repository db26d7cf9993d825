"""The benchmark measures what it says, in the form that is compared from run to run. How fast is no test's business."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Self

import pytest

from benchmarks import __main__ as program
from benchmarks import measure, parts, peers, report, rows

ROOT = Path(__file__).resolve().parent.parent
PROMISED = {
    "jail.warm.p50": "process_pool_executor",
    "jail.warm.p99": "process_pool_executor",
    "jail.on_demand.p50": "fork_exit_wait",
    "jail.rate.floor": "fork_exit_wait",
    "jail.rate.bubblewrap": "bubblewrap",
    "call.warm.p50": "process_pool_executor",
    "call.warm.p99": "process_pool_executor",
}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_promised_rows_are_in_the_table_and_against_whom_they_are_promised() -> None:
    table = {row.name: row for row in rows.ROWS}
    assert set(rows.FIXED) == set(PROMISED)
    assert {name: table[name].against for name in PROMISED} == PROMISED


def test_each_row_has_one_name_and_a_part_that_measures_it() -> None:
    names = [row.name for row in rows.ROWS]
    assert len(names) == len(set(names))
    assert {row.part for row in rows.ROWS} == set(parts.PARTS)
    assert {row.unit for row in rows.ROWS} == {"ms", "calls/s"}


def test_a_name_chooses_a_row_or_all_beneath_it() -> None:
    assert [row.name for row in rows.chosen(["call.warm"])] == ["call.warm.p50", "call.warm.p99"]
    assert [row.name for row in rows.chosen(["jail.rate.2"])] == ["jail.rate.2"]
    assert rows.chosen([]) == rows.ROWS
    for unknown in ("jail.war", "", "call.warm.p5"):
        with pytest.raises(rows.UnknownRow, match="is not a row"):
            rows.chosen([unknown])


# -- the method --------------------------------------------------------------------------------------------------------


def test_the_full_run_has_the_samples_that_a_99th_percentile_needs() -> None:
    assert measure.FULL.samples >= 5000
    assert measure.QUICK.samples >= 400


def test_percentiles_are_samples_by_nearest_rank() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert measure.percentile(samples, 0.99) == 99.0
    assert measure.percentile(samples, 0.5) == 50.0
    assert measure.percentile(samples, 1.0) == 100.0
    assert measure.percentile([7.0], 0.99) == 7.0


def test_a_ratio_is_taken_pair_by_pair() -> None:
    pairs = measure.Pairs()
    for slow in (1.0, 1.0, 50.0):  # the machine was slow during the last pair: both of its blocks were
        pairs.add([2.0 * slow] * 3, [1.0 * slow] * 3)
    ours, theirs, ratio = pairs.p50()
    assert (ours, theirs, ratio) == (2.0, 1.0, 2.0)
    assert pairs.p99() == (100.0, 50.0, 2.0)


def test_what_answers_wrongly_is_no_figure() -> None:
    assert measure.timed(lambda: 2, 2) >= 0
    with pytest.raises(RuntimeError, match="answers 3, not 2"):
        measure.timed(lambda: 3, 2)


def test_callers_count_calls_and_pass_on_what_went_wrong() -> None:
    assert parts.callers(2, lambda: None, 0.01) > 0

    def wrong() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        parts.callers(2, wrong, 0.01)


def test_the_floor_forks_with_the_same_modules() -> None:
    with peers.Forkers(2, ["json", "benchmarks.subject", "no_such_module_at_all"]) as floor:
        assert floor.lacking == ["no_such_module_at_all"]
        assert len(floor.block([0.0, 0.0, 0.0])) == 3
        assert floor.rate(0.01) > 0


def test_a_peer_that_is_not_here_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(peers.Absent, match="apt install bubblewrap"):
        peers.bubblewrap()
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    with pytest.raises(peers.Absent, match="does not work here: No permissions"):
        peers.bubblewrap()
    refusing.write_text("#!/bin/sh\necho 7\n")
    with pytest.raises(peers.Absent, match="answers 7"):
        peers.bubblewrap()


def test_plain_python_runs_the_function() -> None:
    assert peers.plain_python()() == 2
    assert peers.import_subject()() == 2


# -- what is shown and kept --------------------------------------------------------------------------------------------


def some() -> list[rows.Result]:
    first, second, *_ = rows.ROWS
    return [rows.Result(first, 0.51237, 1.0), rows.Result(second, 8.0, 2.0)]


def test_the_drawing_is_well_formed_and_names_what_it_shows() -> None:
    results = [rows.Result(row, place + 0.5, 1.5) for place, row in enumerate(rows.ROWS)]
    text = "".join(ET.fromstring(report.drawing(results, "a < b & c")).itertext())
    assert "a < b & c" in text
    assert all(row.name in text for row in rows.ROWS)
    ET.fromstring(report.drawing([], "nothing"))
    ET.fromstring(report.drawing(some()[:1], "one"))


def test_the_table_is_plain_where_nobody_looks() -> None:
    out = io.StringIO()
    report.show(some(), {"cores": 2}, ["bubblewrap is not measured: why"], out)
    text = out.getvalue()
    assert "process_pool_executor.p50" in text
    assert "0.512" in text
    assert "2x" in text
    assert "cores 2" in text
    assert "bubblewrap is not measured: why" in text
    assert "\x1b" not in text


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    report.write(tmp_path / "new" / "bench.json", report.as_json(some()))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["bench.json"]
    row = json.loads((tmp_path / "new" / "bench.json").read_text())["results"][0]
    assert row == {
        "name": "process_pool_executor.p50",
        "value": 0.5124,
        "unit": "ms",
        "against": "process_pool_executor",
        "ratio": 1.0,
    }


# -- the program -------------------------------------------------------------------------------------------------------


def test_an_unknown_row_is_a_usage_error() -> None:
    done = run("--only", "jail.cold")
    assert done.returncode == 2
    assert "`jail.cold` is not a row; known: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_quick_run_of_two_rows(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    done = run("--quick", "--only", "jail.warm.p50", "--only", "process_pool_executor.p50", "--json", str(path))
    if "does not hold here: no " in done.stderr:
        pytest.skip("needs landlock: " + done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads(path.read_text())
    assert [row["name"] for row in kept["results"]] == ["process_pool_executor.p50", "jail.warm.p50"]
    for row in kept["results"]:
        assert set(row) == {"name", "value", "unit", "against", "ratio"}
        assert row["against"] == "process_pool_executor"
        assert row["unit"] == "ms"
        assert row["value"] > 0
        assert row["ratio"] > 0
    assert kept["results"][0]["ratio"] == 1.0
    assert kept["machine"]["mode"] == "quick"
    assert kept["machine"]["samples"] >= 400
    assert {"cores", "kernel", "python", "tier"} <= set(kept["machine"])
    assert "jail.warm.p50" in done.stdout
    ET.fromstring(path.with_suffix(".svg").read_text())


def test_what_cannot_be_measured_is_said_and_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_effort: measure.Effort, _say: parts.Say, _wanted: frozenset[str]) -> parts.Figures:
        raise RuntimeError("measured something that answers 3, not 2")

    def absent(_effort: measure.Effort, say: parts.Say, _wanted: frozenset[str]) -> parts.Figures:
        say("bubblewrap is not measured: it is not installed")
        return {}

    class NoJail:
        tier = "none"

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(program, "Jail", NoJail)
    monkeypatch.setattr(program, "PARTS", {"startup": broken})
    assert program.main(["--quick", "--json", str(tmp_path / "a.json")]) == 1
    assert "startup could not be measured: measured something that answers 3" in capsys.readouterr().out
    monkeypatch.setattr(program, "PARTS", {"programs": absent})
    assert program.main(["--quick", "--json", str(tmp_path / "b.json")]) == 0
    kept = json.loads((tmp_path / "b.json").read_text())
    assert kept["results"] == []
    assert kept["notes"] == ["bubblewrap is not measured: it is not installed"]
