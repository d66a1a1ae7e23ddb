"""Benchmarks by name, and where their data come from."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from suite_samples import LAYOUTS

from safety_modules.errors import DataError
from safety_modules.evaluation.suites.registry import benchmark, data_folder, names, read


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_benchmark_passes_over_a_part_it_does_not_know(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no part nonsense: expected some of"):
        read(name, LAYOUTS[name](tmp_path), ("nonsense",))


@pytest.mark.parametrize("name", names())
def test_every_benchmark_names_title_licence_and_source(name: str) -> None:
    found = benchmark(name)
    assert found.name == name
    assert all((found.title, found.licence, found.citation, found.obtain))


@pytest.mark.parametrize("name", [name for name in names() if not name.startswith("pocket")])
def test_every_benchmark_of_others_has_a_layout_in_the_tests_and_a_row_in_the_docs(name: str) -> None:
    assert name in LAYOUTS
    page = Path(__file__).parents[2] / "docs/benchmarks.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if f"| `{name}` |" in line]
    assert len(rows) == 1
    assert benchmark(name).licence in rows[0]


def test_an_unknown_benchmark_is_an_error_that_lists_them() -> None:
    with pytest.raises(DataError, match=r"rtvlm.*'figstop'"):
        benchmark("figstop")


def test_a_part_that_is_none_is_an_error_that_lists_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="HoliSafe-Bench has no part SSX: expected some of SSS"):
        read("holisafe", LAYOUTS["holisafe"](tmp_path), ("SSX",))


def test_a_hub_id_is_downloaded_as_a_dataset_at_its_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, Any]] = []

    def download(repository: str, **options: Any) -> str:
        asked.append((repository, options))
        return str(LAYOUTS["xstest"](tmp_path))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert len(read("xstest", "hf://owner/name@abc123")) == 2
    assert data_folder("owner/name") == tmp_path
    assert asked == [
        ("owner/name", {"repo_type": "dataset", "revision": "abc123"}),
        ("owner/name", {"repo_type": "dataset", "revision": None}),
    ]


def test_a_folder_that_is_there_is_never_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "owner/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert data_folder("owner/name") == Path("owner/name")
    assert data_folder(tmp_path) == tmp_path


@pytest.mark.parametrize("place", ["no/such/folder", "./nothing", "hf://owner", Path("owner/name"), ""])
def test_a_place_that_is_neither_folder_nor_hub_id_is_an_error(place: Any) -> None:
    with pytest.raises(DataError, match="no data"):
        data_folder(place)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(DataError, match="no data: expected a folder"):
        data_folder(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.OfflineModeIsEnabled("offline"), r"HF_HUB_OFFLINE.*hf download --repo-type dataset owner/name"),
        (errors.LocalEntryNotFoundError("no network"), "hf download"),
        (OSError("disk full."), "not downloaded: .*OSError: disk full. Check"),
    ],
)
def test_what_cannot_be_downloaded_is_an_error_with_a_next_step(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(DataError, match=message):
        data_folder("hf://owner/name")


def test_a_repository_that_is_gated_or_not_there_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, message in [
        (errors.GatedRepoError, "owner/name is gated"),
        (errors.RepositoryNotFoundError, "owner/name not found"),
        (errors.RevisionNotFoundError, "revision"),
    ]:

        def fail(*args: Any, kind: Any = kind, **options: Any) -> str:
            raise kind.__new__(kind)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises(DataError, match=message):
            data_folder("owner/name")
