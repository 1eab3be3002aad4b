"""Facts about what counts as a picture that was meant, and in which order."""

import os

import pytest

from llava_cli.errors import UsageError
from llava_cli.folders import Search, listed
from tests.drawings import encoded, patches


@pytest.fixture
def folder(tmp_path):
    """Make a folder with pictures, and with what else lies about in such folders."""
    png = encoded(patches(), "PNG")
    for name in ("a10.png", "a2.PNG", "B1.jpg", "b/c.webp", "no ending", ".hidden.png", ".thumbs/a.png", "zero.gif"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png if name != "zero.gif" else b"")
    (tmp_path / "notes.txt").write_text("II")
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "link.png").symlink_to(tmp_path / "a10.png")
    return tmp_path


def found(argument, search=None, **options):
    """Return what an argument means, named from the folder of the test."""
    return [one.place for one in (search or Search()).find(str(argument), **options)]


def test_a_folder_is_its_pictures_counted_not_spelled_and_nothing_hidden(folder):
    assert ["a2.PNG", "a10.png", "b/c.webp", "B1.jpg", "link.png", "no ending", "zero.gif"] == found(folder)


def test_other_files_are_counted_and_those_of_the_run_are_not(folder):
    (folder / "out.jsonl").write_text("{}")
    (folder / "a2.caption").write_text("a caption")
    search = Search(own=(folder / "out.jsonl").resolve(), own_suffix=".caption")
    assert (7, 3) == (len(found(folder, search)), search.left_out)


def test_a_picture_is_opened_by_the_name_the_folder_was_given_with(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert f"{folder.name}/a2.PNG" == next(iter(Search().find(folder.name))).source


def test_a_file_is_meant_even_if_it_is_hidden_missing_or_no_picture(folder):
    names = [folder / ".hidden.png", folder / "missing.png", folder / "notes.txt"]
    assert [[str(name)] for name in names] == [found(name) for name in names]


def test_a_pattern_is_what_fits_it(folder):
    assert [str(folder / "a2.PNG"), str(folder / "a10.png")] == found(folder / "a*")
    for pattern in ("*.heic", "*.txt"):
        with pytest.raises(UsageError, match="no picture fits"):
            found(folder / pattern)


def test_behind_a_pattern_too_other_files_are_counted_and_those_of_the_run_are_not(folder):
    (folder / "out.jsonl").write_text("{}")
    search = Search(own=(folder / "out.jsonl").resolve())
    assert (7, 3) == (len(found(folder / "*", search)), search.left_out)


def test_a_name_with_brackets_is_a_name_if_there_is_such_a_file_and_always_in_a_list(folder):
    (folder / "[1].png").write_bytes(b"x")
    assert [str(folder / "[1].png")] == found(folder / "[1].png")
    assert [str(folder / "[a].png")] == found(folder / "[a].png", literal=True)


def test_a_folder_that_cannot_be_read_is_something_that_fails(folder, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (failed,) = [one for one in Search().find(str(folder)) if one.error]
    assert (f"{folder}/b", "this folder cannot be read (permission denied)") == (failed.source, failed.error.why)


def test_a_folder_without_a_picture_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match="no picture in it"):
        found(tmp_path)


def test_a_list_has_any_name_but_no_stdin_and_no_clipboard():
    assert ["a b", "./-", "./clip:", "n\udcff\n"] == listed(b"a b\0-\0clip:\0n\xff\n\0", null=True)
    assert ["a b", "c"] == listed(b"a b\r\n\nc", null=False)
