# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The toolkit of pages: cells, plots, pictures as bytes, folders that appear at once."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from jinja2 import UndefinedError
from matplotlib.figure import Figure
from PIL import Image

from mrcnn_ext.errors import DataError
from mrcnn_ext.page import (
    THEMES,
    Cell,
    Table,
    count,
    data_uri,
    jpeg_bytes,
    line_color,
    number,
    png_bytes,
    render_page,
    shown_plot,
    staged_folder,
)

MINUS, NARROW_SPACE = "\N{MINUS SIGN}", "\N{NARROW NO-BREAK SPACE}"


def test_numbers_and_their_differences():
    assert number(0.4567) == Cell("45.7", 0.4567)
    assert number(float("nan"), 0.5) == Cell("\N{EN DASH}")
    assert number(-0.0001).text == "0.0"
    better = number(0.5, 0.4567)
    assert (better.delta, better.trend) == ("+4.3", "better")  # of the numbers shown
    worse = number(0.4567, 0.5)
    assert (worse.delta, worse.trend) == (f"{MINUS}4.3", "worse")
    assert number(0.4567, 0.5, lower_is_better=True).trend == "better"
    assert (number(0.5, 0.50001).delta, number(0.5, 0.50001).trend) == ("±0", "same")
    assert number(0.5, float("nan")).delta == ""
    assert number(3.14159, scale=1).text == "3.1"
    assert count(1234567).text == f"1{NARROW_SPACE}234{NARROW_SPACE}567"
    fewer = count(5, 2005, lower_is_better=True)
    assert (fewer.delta, fewer.trend) == (f"{MINUS}2{NARROW_SPACE}000", "better")


def test_groups_of_columns_begin_where_the_last_one_ends():
    table = Table(list("abcdef"), [], [("", 1, ""), ("x", 2, "#000000"), ("y", 3, "#ffffff")])
    assert table.starts == {1, 3}
    assert Table(["a"], []).starts == set()


def test_pictures_as_bytes_keep_their_colours():
    picture = np.zeros((9, 12, 3), np.uint8)
    picture[:, :6] = (250, 120, 10)
    for data, kind, tolerance in ((png_bytes(picture), "png", 0), (jpeg_bytes(picture), "jpeg", 8)):
        head, _, text = data_uri(data, kind).partition(",")
        assert head == f"data:image/{kind};base64"
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)
        assert np.abs(found - picture).max() <= tolerance


def test_a_plot_is_drawn_for_both_themes(tmp_path):
    def plot() -> Figure:
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot([0, 1], color=line_color(0))
        return figure

    shown = shown_plot(tmp_path, "lines", plot, "a line")
    assert (shown.width, shown.height, shown.alt) == (300, 200, "a line")
    for name, theme in (("lines.png", "light"), ("lines_dark.png", "dark")):
        corner = np.asarray(Image.open(tmp_path / name).convert("RGB"))[0, 0]
        ground = THEMES[theme]["ground"]
        assert "#" + "".join(f"{value:02x}" for value in corner) == ground
    assert shown.light != shown.dark
    assert line_color(0) != line_color(1)
    assert line_color(8) == line_color(0)


def test_a_page_escapes_and_misses_nothing(tmp_path):
    template = tmp_path / "own.html"
    template.write_text(
        '{% extends "base.html" %}{% from "macros.html" import render_table %}'
        "{% block main %}<p>{{ word }}</p>{{ render_table(table) }}{% endblock %}"
    )
    table = Table(["name"], [[Cell("a & b", "a")], [Cell("2.0", 2.0, "+1.0", "better")]])
    text = render_page(template, title="A <page>", word="<b>", table=table)
    assert "<title>A &lt;page&gt;</title>" in text
    assert "<p>&lt;b&gt;</p>" in text
    assert "a &amp; b" in text
    assert '<small class="delta better">+1.0</small>' in text
    assert ":root" in text  # the style
    with pytest.raises(UndefinedError, match="word"):
        render_page(template, title="", table=table)


def test_files_appear_when_all_are_finished(tmp_path):
    out = tmp_path / "out"
    (out / "pictures").mkdir(parents=True)
    (out / "pictures" / "old.png").write_text("old")
    (out / "page.html").write_text("old")
    with pytest.raises(KeyError), staged_folder(out) as work:
        (work / "page.html").write_text({"half": "a page"}["other half"])
    assert (out / "page.html").read_text() == "old"
    (out / ".report.abcd_123").mkdir()  # of a process that was killed
    with staged_folder(out) as work:
        (work / "pictures").mkdir()
        with pytest.raises(DataError, match=r"--out .*: another process"):
            staged_folder(out).__enter__()
        (work / "pictures" / "new.png").write_text("new")
        (work / "page.html").write_text("new")
        assert (out / "page.html").read_text() == "old"
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*")) == [
        *("page.html", "pictures", "pictures/new.png")
    ]
    assert (out / "page.html").read_text() == "new"
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"--out .*file"), staged_folder(tmp_path / "file"):
        pass
