"""Programs in other languages are built once, and what is missing or wrong is named; no language is needed for that."""

from __future__ import annotations

import pytest

from .tools import builds

pytestmark = pytest.mark.one_form

CARGO = """#!/bin/sh
mkdir -p target/release
echo built >> target/release/program
echo built >> "{log}"
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A package, a cache and a PATH of nothing but the shell's own commands."""
    (tmp_path / "package" / "src").mkdir(parents=True)
    (tmp_path / "package" / "Cargo.toml").write_text("[package]")
    (tmp_path / "package" / "src" / "main.rs").write_text("fn main() {}")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "package"


def tool(source, name, text):
    path = source.parent / "bin" / name
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("build", "command"), [(builds.golang, "go"), (builds.java, "mvn"), (builds.node, "npm"), (builds.rust, "cargo")]
)
def test_a_language_that_is_missing_is_named(source, build, command):
    with pytest.raises(builds.Missing, match=f"{command} is not installed"):
        build(source)


def test_a_program_is_built_again_only_when_its_sources_change(source, monkeypatch):
    monkeypatch.setenv("PATH", f"{source.parent / 'bin'}:/usr/bin:/bin")
    log = source.parent / "log"
    tool(source, "cargo", CARGO.format(log=log))
    first = builds.rust(source)
    assert builds.rust(source) == first
    assert log.read_text() == "built\n"
    assert not first.is_relative_to(source)
    (source / "src" / "main.rs").write_text("fn main() { }")
    assert builds.rust(source) != first
    assert log.read_text() == "built\nbuilt\n"


def test_a_failed_build_raises_with_the_words_of_the_tool(source):
    tool(source, "cargo", "#!/bin/sh\necho no such crate >&2\nexit 1\n")
    with pytest.raises(builds.BuildError, match="no such crate"):
        builds.rust(source)


def test_the_bench_of_fastrace_is_skipped_without_cargo(source, capsys):
    from bench.rust.__main__ import main

    assert main([]) == 0
    assert capsys.readouterr().out == "SKIPPED, fastrace: cargo is not installed\n"
