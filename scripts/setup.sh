#!/usr/bin/env bash
# Installs what is missing on a bare Debian 12 machine: apt packages, and a Python environment in .venv.
# Does nothing, quickly, when everything is there.
#
#   scripts/setup.sh          what the build and the demo need
#   scripts/setup.sh test     also what tests and benchmarks run beside Heed (PyTorch, transformers, a browser)
#
# Where there is an NVIDIA driver, PyTorch and transformers come in any case: the demo runs on the GPU with them.
# HEED_SKIP_APT=1 leaves the system's packages alone, for other systems and for users who may not install any.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  # The compiler is built on LLVM and MLIR 22, with clang and lld of the same release.
  llvm-22-dev libmlir-22-dev llvm-22-tools mlir-22-tools clang-22 lld-22 clang-format-22 libclang-rt-22-dev
  libzstd-dev zlib1g-dev libxml2-dev libcurl4-openssl-dev libedit-dev libz3-dev
  cmake ninja-build ccache g++ python3-venv python3-dev
  # The tests; the last three run kernels for aarch64.
  libgtest-dev libgmock-dev libbenchmark-dev gcc-aarch64-linux-gnu g++-aarch64-linux-gnu qemu-user
)
if [[ ${1:-} == test ]]; then
  packages+=(chromium) # opens the pages that `python -m heed viz` writes
fi

mkdir -p build
log=$PWD/build/setup.log
: >"$log"

say() { echo "setup: $*"; }
die() {
  echo "setup: error: $1" >&2
  shift
  for line in "$@"; do echo "  $line" >&2; done
  exit 1
}
# logged WHAT COMMAND...: runs a command with its output in the log, and stops with its last lines if it fails.
logged() {
  local what=$1
  shift
  if ! "$@" >>"$log" 2>&1 </dev/null; then
    tail -n 15 "$log" >&2
    die "$what failed; the whole output is in $log"
  fi
}

install_packages() {
  local missing=() package status
  for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true)
    # A virtual or multi-arch package may print several states; one that is installed is enough.
    [[ $status == *ii* ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0

  local root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || die "these packages are missing, and neither root nor sudo is at hand:" "${missing[*]}"
    root=(sudo)
  fi
  say "installing ${#missing[@]} packages with apt: ${missing[*]}"
  local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  logged "apt-get update" "${apt[@]}" update
  apt-cache show llvm-22-dev >/dev/null 2>&1 ||
    die "apt knows no package llvm-22-dev" \
      "On Debian 12 it comes with bookworm-security; see that /etc/apt/sources.list.d names that suite."
  logged "apt-get install" "${apt[@]}" install --no-install-recommends "${missing[@]}"
}

has_gpu() { ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1 '; }
cpu_torch=https://download.pytorch.org/whl/cpu

# install_python REQUIREMENTS: brings .venv to what the file lists, unless its marker says that this has been done.
install_python() {
  local requirements=$1 python=python3 stamp hash sources=()
  stamp=.venv/.installed-$(basename "$requirements" .txt)
  if [[ ! -x .venv/bin/python ]] || ! .venv/bin/python -c '' 2>/dev/null; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
      die "python3 3.10 or later is needed, found: $("$python" --version 2>&1 || true)"
    say "making a Python environment in .venv"
    logged "python3 -m venv" "$python" -m venv --clear .venv
  fi
  hash=$(sha256sum "$requirements" | cut -d' ' -f1)
  [[ -f $stamp && $(<"$stamp") == "$hash" ]] && return 0
  say "installing Python packages from $requirements"
  # PyPI's torch brings gigabytes of CUDA libraries.
  if ! has_gpu && .venv/bin/python -c "import urllib.request as r; r.urlopen('$cpu_torch/torch/', timeout=10)" 2>/dev/null; then
    sources=(--extra-index-url "$cpu_torch")
  fi
  logged "pip install" .venv/bin/python -m pip install --disable-pip-version-check "${sources[@]}" -r "$requirements"
  echo "$hash" >"$stamp"
}

if [[ -z ${HEED_SKIP_APT:-} ]]; then
  command -v apt-get >/dev/null || die "no apt-get here: this is written for Debian 12." \
    "Elsewhere install LLVM, MLIR and clang 22, CMake, Ninja and GoogleTest, and set HEED_SKIP_APT=1."
  install_packages
fi
install_python requirements-dev.txt
if [[ ${1:-} == test ]] || has_gpu; then install_python requirements-integrations.txt; fi
say "everything is in place"
