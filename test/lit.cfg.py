# The lit suite: .mlir, .heed and .test files below test/, run by check-heed-lit.

import os
import platform

import lit.formats

config.name = "heed"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".heed", ".test"]
# `unit` and `python` have drivers of their own; Inputs hold files that tests read.
config.excludes = ["Inputs", "unit", "python", "fuzz", "lit.cfg.py", "lit.site.cfg.py"]
config.test_source_root = os.path.dirname(__file__)
config.test_exec_root = os.path.join(config.heed_binary_dir, "test")

config.environment["PATH"] = os.path.pathsep.join(
    [config.heed_tools_dir, config.llvm_tools_dir, config.environment["PATH"]]
)
for name in ("HOME", "HEED_CACHE_DIR", "LD_LIBRARY_PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS"):
    if name in os.environ:
        config.environment[name] = os.environ[name]

# %shlibdir holds libheed_runtime.so and %libdir the archives: one directory today.
config.substitutions += [
    ("%shlibdir", config.heed_library_dir),
    ("%libdir", config.heed_library_dir),
    ("%incdir", os.path.join(config.heed_source_dir, "include")),
    ("%examples", os.path.join(config.heed_source_dir, "examples")),
    ("%cxx", config.cxx),
    ("%cc", config.cc),
    ("%python", config.python),
]

config.available_features.add(platform.machine().lower().replace("amd64", "x86_64"))
if config.sanitize:
    config.available_features.update(config.sanitize.split(","))
for tool in ("heedc", "heed-opt"):
    if os.path.exists(os.path.join(config.heed_tools_dir, tool)):
        config.available_features.add(tool)
try:
    with open("/proc/cpuinfo") as cpuinfo:
        flags = set(cpuinfo.read().split())
    config.available_features.update(
        flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}
    )
except OSError:
    pass
