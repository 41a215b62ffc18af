"""The command `ovss metrics sg-iou`, and `ovss report --relations` with the file that it writes."""

import shutil
from pathlib import Path

from ovss_ray.dataprep import scan_relations
from tests.commands import ovss
from tests.paths import ROOT


def test_a_relations_file_is_written_once_from_a_checkout(tmp_path: Path) -> None:
    module = tmp_path / "SCAN" / scan_relations.MODULE
    module.parent.mkdir(parents=True)
    module.write_text("# ADE-150\n# father_class = {1: 2}\n# ADE-847\nfather_class = {5: 6, 7: [8, 9], 5: 4}\n")
    command = ["metrics", "sg-iou", "--from-checkout", "SCAN", "--table"]
    done = ovss(*command, "ade20k_847", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ade20k_847: repeated keys of the table, of which the last entry counts, as in Python: 5" in done.stdout
    assert "use it with: ovss report RUN --relations relations_ade20k_847.yaml" in done.stdout
    assert "  5: [4]  #" in (tmp_path / "relations_ade20k_847.yaml").read_text()
    again = ovss(*command, "ade20k_847", cwd=tmp_path)
    assert again.returncode == 2
    assert "ovss: relations_ade20k_847.yaml: exists already" in again.stderr
    small = ovss(*command, "ade20k_150", cwd=tmp_path)
    assert small.returncode == 2
    assert "the table ade20k_150 is commented out in line 2" in small.stderr


def test_the_report_of_an_old_run_shows_sg_iou_and_where_the_relations_are_from(tmp_path: Path) -> None:
    run = shutil.copytree(ROOT / "tests/data/old_runs/san_tiny-finished", tmp_path / "run")
    (tmp_path / "mine.yaml").write_text("scenes:seen:\n  plain purple ball: wood\n")
    done = ovss("report", str(run), "--relations", "mine.yaml", "--classes", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "SG-IoU (Semantic-Guided IoU), in percent" in done.stdout
    assert "sg_miou_classic" in done.stdout
    assert "scenes:seen: SG-IoU by mine.yaml: classes with fathers: 1, pairs: 1, sha256 " in done.stdout
    assert "SG accuracy" in done.stdout
    again = ovss("report", str(run), cwd=tmp_path)
    assert "sg_miou_classic" in again.stdout
    wrong = ovss("report", str(run), "--relations", "none.yaml", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "ovss: none.yaml: cannot be read" in wrong.stderr
