# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The command line of heedc: what it refuses, how it says so, and that it leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
import pathlib
import re
import select
import signal
import subprocess
import time

import pytest
from conftest import HEEDC, ROOT, X86_TARGETS, run_heedc

CAUSAL = ROOT / "examples" / "causal.heed"


def _refused(result: subprocess.CompletedProcess[str], message: str) -> None:
    """Status 1, nothing on stdout, and one diagnostic on stderr."""
    assert result.returncode == 1, (result.returncode, result.stderr)
    assert result.stdout == ""
    assert re.search(message, result.stderr), result.stderr
    assert len(re.findall(r"\berror:", result.stderr)) == 1, result.stderr
    assert "Stack dump" not in result.stderr and "LLVM ERROR" not in result.stderr


def _nothing_in(directory: pathlib.Path, *but: str) -> None:
    assert sorted(path.name for path in directory.iterdir()) == sorted(but)


def _compile(directory: pathlib.Path, *arguments: object, emit: str = "obj",
             output: str = "out.o") -> subprocess.CompletedProcess[str]:
    return run_heedc(*arguments, f"--emit={emit}", "-o", directory / output, cwd=directory)


EMITS = pytest.mark.parametrize("emit", ("obj", "shared"))


# -- The program -----------------------------------------------------------------------------------

BAD_PROGRAMS = {
    "unknown name": ("variant v { mask_mod(b, h, q, kv) { return q >= kw } }", r"kw.*\n(?:.*\n)*?.*(kv|\^)"),
    "type mismatch": ("variant v { mask_mod(b, h, q, kv) { return q && kv } }", r"bool"),
    "mask returns a number": ("variant v { mask_mod(b, h, q, kv) { return q - kv } }", r"bool"),
    "rank of a capture": ("variant v(t: f32[B, Hq]) { score_mod(s, b, h, q, kv) { return s + t[b, h, q] } }", r"t|ind|axis|axes"),
    "empty": ("", r"no variant"),
    "unclosed": ("variant v { mask_mod(b, h, q, kv) { return q >= kv ", r"expected"),
    "a word": ("attention", r"expected"),
}


@EMITS
@pytest.mark.parametrize("name", BAD_PROGRAMS)
def test_bad_program(tmp_path: pathlib.Path, name: str, emit: str) -> None:
    text, message = BAD_PROGRAMS[name]
    (tmp_path / "bad.heed").write_text(text)
    result = _compile(tmp_path, "bad.heed", "--head-dim=64", emit=emit)
    _refused(result, message)
    if text:
        assert re.search(r"bad\.heed:\d+:\d+", result.stderr), "no place is named"
    _nothing_in(tmp_path, "bad.heed")


def test_missing_file(tmp_path: pathlib.Path) -> None:
    _refused(_compile(tmp_path, "nowhere.heed", "--head-dim=64"), r"nowhere\.heed")
    _nothing_in(tmp_path)


def test_directory_as_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "d.heed").mkdir()
    _refused(_compile(tmp_path, "d.heed", "--head-dim=64"), r"d\.heed")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "secret.heed").write_text("variant v {}")
    (tmp_path / "secret.heed").chmod(0)
    _refused(_compile(tmp_path, "secret.heed", "--head-dim=64"), r"secret\.heed")


@pytest.mark.parametrize("data", (b"variant v\xff {}", b"// \xc3\x28\nvariant v {}", b"variant \xed\xa0\x80 {}", b"\x00\x01\x02"))
def test_not_utf8(tmp_path: pathlib.Path, data: bytes) -> None:
    (tmp_path / "bad.heed").write_bytes(data)
    _refused(_compile(tmp_path, "bad.heed", "--head-dim=64"), r"bad\.heed")
    _nothing_in(tmp_path, "bad.heed")


# -- Options ---------------------------------------------------------------------------------------

@EMITS
@pytest.mark.parametrize("arguments, message", [
    (["--head-dim=0"], r"--head-dim.*1 to 576.*'0'"),
    (["--head-dim=577"], r"--head-dim.*1 to 576.*'577'"),
    (["--head-dim=abc"], r"--head-dim.*'abc'"),
    (["--head-dim=-1"], r"--head-dim.*'-1'"),
    (["--head-dim=64x"], r"--head-dim.*'64x'"),
    (["--head-dim=99999999999999999999"], r"--head-dim"),
    (["--head-dim="], r"--head-dim"),
    ([], r"--head-dim"),
    (["--head-dim=64", "--value-head-dim=0"], r"--value-head-dim.*'0'"),
    (["--head-dim=64", "--value-head-dim=577"], r"--value-head-dim.*'577'"),
    (["--head-dim=64", "--target=x86-64-v9"], r"x86-64-v9"),
    (["--head-dim=64", "--target="], r"target"),
    (["--head-dim=64", "--dtype=f8"], r"--dtype.*f32, bf16 or f16.*'f8'"),
    (["--head-dim=64", "--variant=casual"], r"no variant 'casual' in '.*' \(there: causal\); did you mean 'causal'\?"),
    (["--check", "--variant=other"], r"no variant 'other' in '.*' \(there: causal\)$"),
    (["--check", "--variant=casual", "-Dx=1"], r"no variant 'casual'"),
    (["--head-dim=64", "--target=x86-64-v3,aarch64"], r"aarch64|architecture"),
    (["--head-dim=64", "-Dnothing=1"], r"nothing"),
    (["--head-dim=64", "-Dx"], r"NAME=VALUE"),
    (["--head-dim=64", "--symbol=1 + 1"], r"--symbol"),
    (["--head-dim=64", "--symbol=heed_run"], r"--symbol"),
    (["--head-dim=64", "--tune=tf32=0"], r"--tune: schedule option 'tf32' takes no value, found 'tf32=0'"),
    (["--head-dim=64", "--tune=aligned_only="], r"'aligned_only' takes no value"),
    (["--head-dim=64", "--header=-"], r"--header expects a file"),
])
def test_bad_option(tmp_path: pathlib.Path, arguments: list[str], message: str, emit: str) -> None:
    _refused(_compile(tmp_path, CAUSAL, *arguments, emit=emit), message)
    _nothing_in(tmp_path)


@pytest.mark.parametrize("arguments", [["--emit=nothing"], ["--no-such-option"], ["--head-dim"]])
def test_unknown_option(tmp_path: pathlib.Path, arguments: list[str]) -> None:
    result = run_heedc(CAUSAL, *arguments, cwd=tmp_path)
    assert result.returncode == 1 and result.stdout == "" and arguments[0].split("=")[0].lstrip("-") in result.stderr
    _nothing_in(tmp_path)


def test_no_input() -> None:
    _refused(run_heedc(), r"no input file")


def test_symbol_for_several_variants(tmp_path: pathlib.Path) -> None:
    (tmp_path / "two.heed").write_text("variant a {}\nvariant b {}\n")
    _refused(_compile(tmp_path, "two.heed", "--head-dim=64", "--symbol=k"), r"--symbol.*several")
    _nothing_in(tmp_path, "two.heed")


def test_object_needs_a_file(tmp_path: pathlib.Path) -> None:
    _refused(run_heedc(CAUSAL, "--head-dim=64", cwd=tmp_path), r"-o is missing")
    _nothing_in(tmp_path)


# -- Output ----------------------------------------------------------------------------------------

@EMITS
def test_output_in_missing_directory(tmp_path: pathlib.Path, emit: str) -> None:
    _refused(_compile(tmp_path, CAUSAL, "--head-dim=64", emit=emit, output="nowhere/out"), r"nowhere/out")
    _nothing_in(tmp_path)


@EMITS
def test_output_is_a_directory(tmp_path: pathlib.Path, emit: str) -> None:
    (tmp_path / "out").mkdir()
    _refused(_compile(tmp_path, CAUSAL, "--head-dim=64", emit=emit, output="out"), r"/out")
    _nothing_in(tmp_path, "out")


@EMITS
@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_output_in_unwritable_directory(tmp_path: pathlib.Path, emit: str) -> None:
    tmp_path.chmod(0o500)
    _refused(_compile(tmp_path, CAUSAL, "--head-dim=64", emit=emit), r"out\.o")
    tmp_path.chmod(0o700)
    _nothing_in(tmp_path)


@EMITS
def test_output_in_a_directory_that_cannot_hold_files(emit: str) -> None:
    """/proc takes no files, not even from root."""
    _refused(_compile(pathlib.Path("/proc/self/fdinfo"), CAUSAL, "--head-dim=64", emit=emit), r"out\.o")


def test_output_that_is_no_regular_file(tmp_path: pathlib.Path) -> None:
    """A link stays a link, and a pipe a pipe."""
    (tmp_path / "to").write_text("old")
    (tmp_path / "link").symlink_to("to")
    assert _compile(tmp_path, CAUSAL, "--head-dim=64", output="link").returncode == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "to").read_bytes()[:4] == b"\x7fELF"
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["head", "-c", "4", tmp_path / "pipe"], stdout=subprocess.PIPE)
    _compile(tmp_path, CAUSAL, "--head-dim=64", output="pipe")
    assert reader.communicate(timeout=60)[0] == b"\x7fELF" and (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe", "to"]


@EMITS
def test_a_link_to_what_is_not_there(tmp_path: pathlib.Path, emit: str) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "next").symlink_to("to")
    (tmp_path / "link").symlink_to("far/next")
    assert _compile(tmp_path, CAUSAL, "--head-dim=64", emit=emit, output="link").returncode == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "far" / "to").read_bytes()[:4] == b"\x7fELF"
    _nothing_in(tmp_path / "far", "next", "to")
    (tmp_path / "far" / "to").unlink()
    _refused(_compile(tmp_path, CAUSAL, "--head-dim=64", "--header=far/to", emit=emit, output="link"), "expected two files")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    _refused(_compile(tmp_path, CAUSAL, "--head-dim=64", emit=emit, output="a"), r"cannot write '.*/a': Too many levels")
    _nothing_in(tmp_path, "a", "b", "far", "link")


@EMITS
def test_permissions_stay(tmp_path: pathlib.Path, emit: str) -> None:
    (tmp_path / "out.o").touch(mode=0o600)
    for mode in (0o600, 0o666):  # the umask is for new files
        (tmp_path / "out.o").chmod(mode)
        assert _compile(tmp_path, CAUSAL, "--head-dim=64", emit=emit).returncode == 0
        assert (tmp_path / "out.o").stat().st_mode & 0o777 == mode and (tmp_path / "out.o").stat().st_size


def _linker(tmp_path: pathlib.Path, script: str) -> dict[str, str]:
    """The environment of a heedc that finds a script as its linker."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ld.lld-22").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "ld.lld-22").chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}


@pytest.mark.parametrize("number", (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
def test_a_signal_leaves_nothing(tmp_path: pathlib.Path, number: int) -> None:
    environment = _linker(tmp_path, "echo > started; exec sleep 60")
    process = subprocess.Popen([HEEDC, CAUSAL, "--head-dim=64", "--emit=shared", "-o", "out.so"], cwd=tmp_path, env=environment,
                               start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.01)
    assert len(list(tmp_path.glob("out.so.*.tmp*"))) == 2
    os.killpg(process.pid, number)
    assert process.wait(60) == -number
    _nothing_in(tmp_path, "bin", "started")


@EMITS
def test_a_file_that_gets_too_large(tmp_path: pathlib.Path, emit: str) -> None:
    result = subprocess.run(["sh", "-c", 'ulimit -f 2; "$@"', "sh", HEEDC, CAUSAL, "--head-dim=64", f"--emit={emit}", "-o", "out"],
                            cwd=tmp_path, capture_output=True, text=True)
    _refused(result, r"cannot write 'out': File too large\n$")
    _nothing_in(tmp_path)


def test_a_linker_that_fails(tmp_path: pathlib.Path) -> None:
    """Its words, with the name that the user gave instead of that of the temporary file."""
    environment = _linker(tmp_path, 'echo "ld: $3: No space left on device" >&2; exit 1')
    command = [str(HEEDC), str(CAUSAL), "--head-dim=64", "--emit=shared", "-o", "out.so"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    _refused(result, "error: cannot link 'out.so': ld: out.so: No space left on device\n$")
    (tmp_path / "bin" / "ld.lld-22").unlink()
    result = subprocess.run(command, cwd=tmp_path, env={**environment, "PATH": f"{tmp_path}/bin"}, capture_output=True, text=True)
    _refused(result, "no linker found for --emit=shared: install lld or binutils")
    _nothing_in(tmp_path, "bin")


def test_a_reader_that_goes_away(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)  # less than an object
    process = subprocess.Popen([HEEDC, CAUSAL, "--head-dim=64", "-o", "pipe"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "TMPDIR": str(tmp_path)})
    select.select([reader], [], [], 60)
    os.close(reader)
    assert process.communicate(timeout=60)[1] == "heedc: error: cannot write 'pipe': Broken pipe\n" and process.returncode == 1
    _nothing_in(tmp_path, "pipe")


def test_files_that_are_the_same(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "own.heed"
    source.write_text("variant v {}\n")
    for output in ("own.heed", "./own.heed"):
        _refused(_compile(tmp_path, source, "--head-dim=64", output=output), r"own.heed.*is the input")
    _refused(_compile(tmp_path, source, "--head-dim=64", "--header=out", output="out"), r"two files.*out")
    importer = tmp_path / "importer.heed"
    importer.write_text('import "./own.heed"\nvariant w {}\n')
    _refused(_compile(tmp_path, importer, "--head-dim=64", output="own.heed"), r"own.heed.*is imported")
    _refused(_compile(tmp_path, importer, "--head-dim=64", "--header=own.heed", output="out"), r"own.heed.*is imported")
    assert source.read_text() == "variant v {}\n"
    _nothing_in(tmp_path, "own.heed", "importer.heed")


def test_a_full_disk_behind_stdout() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run([HEEDC, CAUSAL, "--head-dim=64", "--emit=asm"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1 and result.stderr == "heedc: error: cannot write to stdout: No space left on device\n"


def test_failure_keeps_the_old_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "out.o").write_text("old")
    _refused(_compile(tmp_path, CAUSAL, "--head-dim=0"), r"--head-dim")
    assert (tmp_path / "out.o").read_text() == "old"
    _nothing_in(tmp_path, "out.o")


def test_header_in_missing_directory(tmp_path: pathlib.Path) -> None:
    """The object and its header come together or not at all."""
    _refused(_compile(tmp_path, CAUSAL, "--head-dim=64", "--header=nowhere/x.h"), r"nowhere/x\.h")
    _nothing_in(tmp_path)


@pytest.mark.parametrize("header", ("directory", "/dev/full"))
def test_header_that_cannot_be_written(tmp_path: pathlib.Path, header: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "out.o").write_text("old")
    _refused(_compile(tmp_path, CAUSAL, "--head-dim=64", f"--header={header}"), rf"cannot write '.*{header}'")
    assert (tmp_path / "out.o").read_text() == "old"
    _nothing_in(tmp_path, "directory", "out.o")


# -- What works ------------------------------------------------------------------------------------

@pytest.mark.parametrize("emit", ("attn", "tile", "llvm", "asm"))
def test_text_goes_to_stdout(tmp_path: pathlib.Path, emit: str) -> None:
    to_stdout = run_heedc(CAUSAL, "--head-dim=64", f"--emit={emit}", cwd=tmp_path)
    assert to_stdout.returncode == 0 and to_stdout.stderr == "" and "causal" in to_stdout.stdout
    assert _compile(tmp_path, CAUSAL, "--head-dim=64", emit=emit, output="text").returncode == 0
    assert (tmp_path / "text").read_text() == to_stdout.stdout


@pytest.mark.parametrize("emit", ("obj", "shared"))
def test_output_is_reproducible(tmp_path: pathlib.Path, emit: str) -> None:
    for output in ("a", "b"):
        assert _compile(tmp_path, CAUSAL, "--head-dim=64", "--symbol=k", emit=emit, output=output).returncode == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_target_order_does_not_matter(tmp_path: pathlib.Path) -> None:
    for output, targets in (("a", "x86-64-v2,x86-64-v3"), ("b", "x86-64-v3,x86-64-v2,x86-64-v3")):
        assert _compile(tmp_path, CAUSAL, "--head-dim=8", f"--target={targets}", output=output).returncode == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_symbol_may_be_the_name_of_the_variant(tmp_path: pathlib.Path) -> None:
    result = _compile(tmp_path, CAUSAL, "--head-dim=8", "--symbol=causal")
    assert result.returncode == 0, result.stderr


def test_several_variants_in_one_object(tmp_path: pathlib.Path) -> None:
    (tmp_path / "two.heed").write_text("variant a {}\nvariant b { mask_mod(b, h, q, kv) { return q >= kv } }\n")
    result = _compile(tmp_path, "two.heed", "--head-dim=8", "--header=two.h")
    assert result.returncode == 0, result.stderr
    header = (tmp_path / "two.h").read_text()
    assert "a_f32_d8_kernel" in header and "b_f32_d8_kernel" in header


@pytest.mark.slow
def test_header_of_a_kernel_for_gpus(tmp_path: pathlib.Path) -> None:
    """An entry for each kind of code that the object has, valid C and C++, and no other."""
    source = tmp_path / "x.heed"
    source.write_text("variant x(slope: f32[Hq], cap: f32 = 2.0) { score_mod(s, b, h, q, kv) { return s * cap + slope[h] } }\n"
                      "variant y { mask_mod(b, h, q, kv) { return q >= kv } }\n")
    for targets, cpu, gpu in (("native", True, False), ("sm_80,native", True, True), ("sm_80", False, True)):
        result = _compile(tmp_path, source, "--head-dim=16", "--dtype=f16", f"--target={targets}", "--header=x.h")
        assert result.returncode == 0, result.stderr
        header = (tmp_path / "x.h").read_text()
        assert ("heed_status x_f16_d16(" in header) == ("heed_status y_f16_d16(" in header) == cpu
        assert ("heed_status x_f16_d16_launch(" in header) == ("heed_status y_f16_d16_launch(" in header) == gpu
        assert ("sm_80" in header) == gpu and ("int32_t threads" in header) == cpu and ("void *stream" in header) == gpu
        calls = [f"int {kind}(const heed_tensor *q, heed_tensor *o, void *last) {{ x_f16_d16_params p = x_f16_d16_default_params();"
                 f" return x_f16_d16{suffix}(q, q, q, o, o, NAN, &p, {last}) + y_f16_d16{suffix}(q, q, q, o, NULL, 1.0, {last}); }}\n"
                 for kind, suffix, last, exists in (("cpu", "", "last != NULL", cpu), ("gpu", "_launch", "last", gpu)) if exists]
        for language, standard in (("c", "c99"), ("c++", "c++11")):
            (tmp_path / "use.c").write_text('#include "x.h"\n' + "".join(calls))
            compiled = subprocess.run(["cc", "-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only",
                                       "-I", ROOT / "include", "use.c"], cwd=tmp_path, capture_output=True, text=True)
            assert compiled.returncode == 0, compiled.stderr


def test_header_of_any_names(tmp_path: pathlib.Path) -> None:
    """Parameters may have names that mean something else in C."""
    (tmp_path / "x.heed").write_text("variant x(int: f32 = 1.0, class: i32, class_: i32, NULL: bool = true, NAN: f32 = inf, linux: i64 = "
                                     "-0x8000000000000000) { score_mod(s, b, h, q, kv) { return if NULL { s * int + NAN } else "
                                     "{ f32(class + class_) + f32(linux) } } }\n")
    assert _compile(tmp_path, "x.heed", "--head-dim=16", "--header=x.h").returncode == 0
    (tmp_path / "use.c").write_text('#include "x.h"\nint use(void) { x_f32_d16_params p = x_f32_d16_default_params();\n'
                                    "  return p.int_ == 1.0 && p.class_2 + p.class_ == 0 && p.NULL_ == 1 && p.linux_ < 0; }\n")
    for language, standard in (("c", "c99"), ("c", "gnu17"), ("c++", "c++17")):
        compiled = subprocess.run(["cc", "-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only",
                                   "-I", ROOT / "include", "use.c"], cwd=tmp_path, capture_output=True, text=True)
        assert compiled.returncode == 0, compiled.stderr
    _refused(_compile(tmp_path, "x.heed", "--head-dim=16", "--symbol=int", output="y.o"), r"--symbol expects")


def test_header_of_names_of_libraries(tmp_path: pathlib.Path) -> None:
    """Names that the implementation, the runtime or other headers have; all different in the struct."""
    names = ["_A", "a__b", "_Bool", "int64_t", "heed_tensor", "errno", "EOF", "I", "complex", "RAND_MAX", "CHAR_BIT", "DBL_MAX", "stdin",
             "assert", "param_", "memset", "heed_run"]
    parameters = ", ".join(f"{name}: i32 = {i}" for i, name in enumerate(names))
    (tmp_path / "x.heed").write_text(f"variant x({parameters}, t: f32[?]) {{ score_mod(s, b, h, q, kv) {{ return s + t[q] }} }}\n")
    assert _compile(tmp_path, "x.heed", "--head-dim=16", "--header=x.h").returncode == 0
    includes = "".join(f"#include <{name}.h>\n" for name in ("errno", "stdio", "stdlib", "limits", "float", "assert", "stdint"))
    for language, standard, more in (("c", "c11", "#include <complex.h>\n"), ("c++", "c++17", "")):
        (tmp_path / "use.c").write_text(includes + more + '#include "x.h"\n')
        compiled = subprocess.run(["cc", "-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only",
                                   "-I", ROOT / "include", "use.c"], cwd=tmp_path, capture_output=True, text=True)
        assert compiled.returncode == 0, compiled.stderr
    # None of the runtime's own names can be a kernel's.
    for name in set(re.findall(r"\bheed_[a-z_]+", (ROOT / "include/heed-c/Runtime.h").read_text())) - {"heed_runtime"}:
        _refused(_compile(tmp_path, CAUSAL, "--head-dim=64", f"--symbol={name}", emit="asm"), r"--symbol expects")


def test_defines_are_read_as_in_the_language(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.heed").write_text("variant x(w: i32) { score_mod(s, b, h, q, kv) { return s + w } }\n")
    program = [run_heedc(tmp_path / "x.heed", "--head-dim=16", "--emit=attn", *(f"-Dw={w}" for w in given)).stdout
               for given in (["010"], ["10"], ["8", "10"], ["0xa"], ["8"])]
    assert program[0] and program[0] == program[1] == program[2] == program[3] != program[4]


def test_a_define_that_no_parameter_takes(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.heed").write_text("variant a(windw: i32, t: f32[Hq]) { score_mod(s, b, h, q, kv) { return s + windw + t[h] } }\nvariant b {}\n")
    for arguments, message in (
            (["-Dwindo=3"], r"no variant has a scalar parameter 'windo' to define; did you mean 'windw'\?"),
            (["-Da.window=3"], r"scalar parameter 'a.window' to define; did you mean 'a.windw'\?"),
            (["-Dwindw=3", "--variant=b"], "variant 'b' has no scalar parameter 'windw' to define$"),
            (["-Dt=3"], "no variant has a scalar parameter 't' to define$")):
        _refused(run_heedc(tmp_path / "x.heed", "--check", *arguments), message)


def test_standard_input(tmp_path: pathlib.Path) -> None:
    text = CAUSAL.read_text()
    run = [subprocess.run([HEEDC, "-", *arguments], input=text, capture_output=True, text=True, cwd=tmp_path)
           for arguments in (["--check"], ["--head-dim=64", "--emit=attn"], ["--head-dim=64", "--emit=attn", "-o", "-"])]
    assert [x.returncode for x in run] == [0, 0, 0] and "@causal" in run[1].stdout and run[1].stdout == run[2].stdout
    bad = subprocess.run([HEEDC, "-", "--check"], input="variant", capture_output=True, text=True)
    assert bad.returncode == 1 and "<stdin>:1:" in bad.stderr
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        _refused(subprocess.run([HEEDC, "-", "--check"], stdin=directory, capture_output=True, text=True),
                 "cannot read standard input: Is a directory$")
    finally:
        os.close(directory)


def test_what_is_no_cubin(tmp_path: pathlib.Path) -> None:
    for targets, expected in (("native", "PTX and cubins are for GPU targets, such as sm_90a$"), ("sm_80,sm_90a", "1 variant for 1 GPU target, found 1 variants and 2 targets")):
        _refused(_compile(tmp_path, CAUSAL, "--head-dim=64", f"--target={targets}", emit="cubin"), expected)
    _refused(_compile(tmp_path, CAUSAL, "--head-dim=64", emit="ptx"), "GPU targets")
    result = subprocess.run([HEEDC, CAUSAL, "--head-dim=64", "--emit=cubin", "--target=sm_80", "-o", "x"], cwd=tmp_path,
                            env={**os.environ, "HEED_PTXAS": ""}, capture_output=True, text=True)
    assert result.returncode == 1 and "no ptxas" in result.stderr and "HEED_PTXAS" in result.stderr
    _nothing_in(tmp_path)


@pytest.mark.parametrize("knows", [True, False], ids=["ptxas-12", "ptxas-11"])
def test_ptxas_that_does_not_know_an_option(tmp_path: pathlib.Path, knows: bool) -> None:
    fake = tmp_path / "ptxas"
    fake.write_text('#!/bin/sh\necho "$@" >> "$0.calls"\ncase "$*" in *split-compile*) '
                    + ('' if knows else 'echo "ptxas fatal   : Unknown option" >&2; exit 255') + ';; esac\n'
                    'while [ "$1" != -o ]; do shift; done; echo a cubin > "$2"\n')
    fake.chmod(0o755)
    subprocess.run([HEEDC, CAUSAL, "--head-dim=64", "--dtype=f16", "--emit=cubin", "--target=sm_80", "-o", "x.cubin"], cwd=tmp_path,
                   env={**os.environ, "HEED_PTXAS": str(fake)}, check=True)
    assert (tmp_path / "x.cubin").read_text() == "a cubin\n"
    calls = (tmp_path / "ptxas.calls").read_text().splitlines()
    assert ["split-compile" in call for call in calls] == ([True] if knows else [True, False])


def test_check_and_targets(tmp_path: pathlib.Path) -> None:
    result = run_heedc(CAUSAL, "--check", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    _nothing_in(tmp_path)
    listed = run_heedc("--list-targets").stdout
    assert listed.count("(native)") == 1 and "aarch64" in listed and re.search(r"^sm_90a +Hopper", listed, re.MULTILINE)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.heed")), ids=lambda path: path.stem)
def test_examples_are_formatted(path: pathlib.Path) -> None:
    assert run_heedc("--format", path).stdout == path.read_text()


def test_a_closed_pipe_is_no_crash() -> None:
    process = subprocess.Popen([str(HEEDC), str(CAUSAL), "--head-dim=64", "--emit=asm"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    error = process.stderr.read()
    process.wait(60)
    assert b"Stack dump" not in error


FUNCTIONS = ("floor", "ceil", "exp", "exp2", "log", "log2", "log1p", "tanh", "sin", "cos", "sqrt", "rsqrt", "erf", "sigmoid",
             "silu", "gelu")


@pytest.mark.parametrize("target", X86_TARGETS[:3])
def test_objects_call_nothing(tmp_path: pathlib.Path, target: str) -> None:
    """Not even libm, for what is the same for a whole tile, for a row, or for no two scores."""
    terms = " + ".join(f"{name}({x})" for name in FUNCTIONS for x in ("w", "w + h", "w + q", "w * kv", "s"))
    source = tmp_path / "all.heed"
    source.write_text(f"variant all(w: f32) {{ score_mod(s, b, h, q, kv) {{ return {terms} + pow(w, s) + pow(s, w) + s // w + s % w }} }}\n")
    assert run_heedc(source, "--head-dim=32", f"--target={target}", "-o", tmp_path / "all.o").returncode == 0
    undefined = subprocess.run(["nm", "--undefined-only", tmp_path / "all.o"], capture_output=True, text=True, check=True)
    assert {line.split()[-1] for line in undefined.stdout.splitlines()} <= {"memcpy", "memset", "memmove"}
