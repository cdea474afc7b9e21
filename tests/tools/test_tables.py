from __future__ import annotations

from pathlib import Path

import pytest

from robustmed_monai.utils.errors import ConfigError, DataError
from robustmed_monai.utils.provenance import provenance, write_results
from tools.tables import main, render_table, update_document

HEAD = {
    **provenance(command="make results-ra", seeds=[1, 2, 3]),
    "commit": "0123456789abcdef",
    "date": "2026-11-21",
}
CELLS = [
    {"row": "RA", "column": "image_auroc", "mean": 0.91234, "std": 0.01, "n": 3},
    {"row": "RA", "column": "pixel_ap", "mean": 0.5, "std": 0.02, "n": 3},
    {"row": "mean image", "column": "image_auroc", "mean": 0.61, "std": 0.0, "n": 1, "ci95": [0.55, 0.67]},
]
EMPTY = "# Title\n\n<!-- table: results/a.json{options} -->\n<!-- end table -->\n\nLast line.\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_results(tmp_path / "results" / "a.json", CELLS, HEAD)
    (tmp_path / "README.md").write_text(EMPTY.format(options=""), encoding="utf-8")
    return tmp_path


def test_all_cells_in_the_order_of_the_file() -> None:
    assert render_table({**HEAD, "rows": CELLS}) == (
        "|  | image auroc | pixel ap |\n"
        "| --- | ---: | ---: |\n"
        "| RA | 0.912 ± 0.010 | 0.500 ± 0.020 |\n"
        "| mean image | 0.610 [0.550, 0.670] | – |\n"
        "\n"
        "±: standard deviation over 3 seeds; [a, b]: 95 % bootstrap interval over subjects; rows without ± "
        "have one run. `make results-ra`, 2026-11-21, commit 0123456789ab."
    )


def test_chosen_rows_columns_and_decimals(project: Path) -> None:
    text = EMPTY.format(options=' "rows=mean image,RA" columns=image_auroc digits=2')
    assert update_document(text, project).splitlines()[4:8] == [
        "|  | image auroc |",
        "| --- | ---: |",
        "| mean image | 0.61 [0.55, 0.67] |",
        "| RA | 0.91 ± 0.01 |",
    ]


def test_single_runs_and_dirty_commits_are_said() -> None:
    results = {**HEAD, "commit": "0123456789abcdef+dirty", "rows": CELLS}
    line = render_table(results, rows=["mean image"]).splitlines()[-1]
    assert line.startswith("[a, b]: 95 % bootstrap interval over subjects. `make")
    assert line.endswith("commit 0123456789ab+dirty.")
    assert render_table({**HEAD, "commit": None, "rows": CELLS}).endswith("commit none.")


def test_a_table_says_what_its_intervals_are() -> None:
    results = {**HEAD, "interval": "binomial interval", "rows": CELLS}
    line = render_table(results, rows=["mean image"]).splitlines()[-1]
    assert line.startswith("[a, b]: 95 % binomial interval. `make")


def test_a_table_of_one_seed_says_so() -> None:
    single = [{**CELLS[0], "n": 1, "std": 0.0}, CELLS[2]]
    lines = [render_table({**HEAD, "seeds": [0], "rows": rows}) for rows in (single[:1], single)]
    assert lines[0].splitlines()[-1].startswith("One seed. `make results-ra`")
    assert lines[1].splitlines()[-1].startswith("One seed; [a, b]: 95 %")


def test_rows_with_other_numbers_of_seeds_are_named() -> None:
    cells = [*CELLS[:1], {**CELLS[0], "row": "AE", "n": 5}]
    line = render_table({**HEAD, "command": "x" * 200, "rows": cells}).splitlines()[-1]
    assert line.startswith("±: standard deviation over 3 seeds: RA; 5 seeds: AE. 2026-11-21")


def test_benchmarks_show_both_sides() -> None:
    case = {"case": "map, batch 32", "ours": 4.25, "peer": 85.0, "peer_name": "scikit-image", "unit": "ms"}
    lines = render_table({**HEAD, "rows": [{**case, "ratio": 20.0, "iqr": 0.2}]}, digits=1).splitlines()
    assert lines[2] == "| map, batch 32 | 4.2 | 85.0 (scikit-image) | ms | 20.00 |"
    assert "1 threads, cpu" in lines[-1]


def test_written_tables_pass_the_check_and_altered_ones_do_not(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = project / "README.md"
    assert main(["--check", str(project)]) == 1
    assert "README.md: its tables differ" in capsys.readouterr().err
    assert readme.read_text(encoding="utf-8") == EMPTY.format(options="")

    assert main([str(project)]) == 0
    written = readme.read_text(encoding="utf-8")
    assert written.startswith("# Title\n\n<!-- table")
    assert written.endswith("<!-- end table -->\n\nLast line.\n")
    assert main(["--check", str(project)]) == 0
    assert main([str(project)]) == 0
    assert readme.read_text(encoding="utf-8") == written

    readme.write_text(written.replace("0.912", "0.999"), encoding="utf-8")
    assert main(["--check", str(project)]) == 1


def test_two_tables_in_one_document(project: Path) -> None:
    text = EMPTY.format(options=" rows=RA") + EMPTY.format(options=' "rows=mean image"')
    updated = update_document(text, project)
    assert updated.count("| RA |") == 1
    assert updated.count("| mean image |") == 1
    assert update_document(updated, project) == updated


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: results/a.json -->\n", "is not closed"),
        ("<!-- table: results/a.json -->\n" * 2 + "<!-- end table -->\n", "is not closed"),
        (EMPTY.format(options=" colums=image_auroc"), "unknown option 'colums=image_auroc'"),
        (EMPTY.format(options=" digits=two"), "digits is 'two'"),
        (EMPTY.format(options=" rows=AE"), r"no row \['AE'\]"),
        (EMPTY.format(options=" columns=dice"), r"no column \['dice'\]"),
    ],
)
def test_wrong_markers_are_refused(project: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        update_document(text, project)


def test_benchmarks_have_no_columns_to_choose() -> None:
    case = {"case": "a", "ours": 1, "peer": 1, "peer_name": "b", "unit": "s", "ratio": 1, "iqr": 0}
    with pytest.raises(ConfigError, match="leave columns= out"):
        render_table({**HEAD, "rows": [case]}, columns=["ours"])


def test_a_missing_results_file_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "results" / "a.json").unlink()
    with pytest.raises(DataError, match=r"a\.json: no such file"):
        update_document(EMPTY.format(options=""), project)
    assert main([str(project)]) == 1
    assert "README.md:" in capsys.readouterr().err


def test_the_tables_of_this_project_equal_its_results(repository: Path) -> None:
    assert main(["--check", str(repository)]) == 0
