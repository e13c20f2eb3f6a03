#!/usr/bin/env bash
# Cross-builds the wheel of each architecture (arm64, armhf: both unless named), checks what it is, and tests it on this machine under
# qemu's user-mode emulation with Debian's Python and NumPy of that architecture. Wheels go to dist/, everything else to build/arm/.
set -euo pipefail
cd "$(dirname "$0")/../.."
source_tree=$PWD

for tool in aarch64-linux-gnu-g++ arm-linux-gnueabihf-g++ qemu-arm-static apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || {
    echo "no $tool: apt-get install g++-aarch64-linux-gnu g++-arm-linux-gnueabihf qemu-user-static (Debian 12)" >&2
    exit 1
  }
done
.venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
  echo "the wheels are for Debian 12's Python 3.11 and are built with that version; make setup PYTHON=python3.11" >&2
  exit 1
}

# A Python environment like a board's: system packages below, the wheel on top, put there by Debian's pip. Scripts stand where the
# kernel could not start an ARM program itself, so that subprocesses of subprocesses are emulated too.
emulate() { # PROGRAM AT [NAME]: a script AT that runs PROGRAM, which sees itself under the name NAME
  printf '#!/bin/sh\nexec %s -L %s -0 %s %s "$@"\n' "$qemu" "$root" "${3:-$2}" "$1" >"$2"
  chmod +x "$2"
}

make_environment() {
  rm -rf "$environment"
  mkdir -p "$environment/bin" "$folder/home"
  printf 'home = %s\ninclude-system-site-packages = true\n' "$root/usr/bin" >"$environment/pyvenv.cfg"
  emulate "$root/usr/bin/python3.11" "$environment/bin/python3"
  "$environment/bin/python3" -m pip install --quiet --disable-pip-version-check --no-index --no-deps "$wheel"
  local firmware
  firmware=$(echo "$environment"/lib/python3.11/site-packages/firmware_bridge/bin/fedge-sensor-host)
  mv "$firmware" "$firmware.$machine"
  emulate "$firmware.$machine" "$firmware"
}

# One build for the wheel and for ctest's programs.
build_wheel() {
  rm -f dist/fedge-*-"linux_$machine.whl"
  _PYTHON_HOST_PLATFORM="linux-$machine" SETUPTOOLS_EXT_SUFFIX=".cpython-311-$triplet.so" \
    .venv/bin/pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist \
    -C build-dir="$folder/build" -C cmake.define.FEDGE_TESTS=ON \
    -C cmake.args="-DCMAKE_TOOLCHAIN_FILE=$toolchain;-DFEDGE_ROOT=$root" .
  wheel=$(echo "$source_tree"/dist/fedge-*-"linux_$machine.whl")
  .venv/bin/python tests/arm/check_wheel.py "$wheel" "$machine"
}

native_tests() {
  .venv/bin/ctest --test-dir "$folder/build" --output-on-failure
}

python_tests() {
  # Not from the source tree, whose packages lack these extensions.
  cd "$folder"
  PYTHONPATH=$source_tree/tests/arm "$environment/bin/python3" -m pytest -p emulated \
    -c "$source_tree/pyproject.toml" --rootdir "$source_tree" -p no:cacheprovider -o timeout=300 -q --durations=12 \
    "$source_tree"/tests/{native,runtime,end_to_end}
  "$environment/bin/fedge" --version
  "$environment/bin/fedge" simulate --devices 5 --rounds 2
  # A processor with NEON and without fused multiply-add takes the plain code, and nothing in that is beyond it.
  [ "$machine" != armv7l ] || QEMU_CPU=cortex-a9 "$environment/bin/python3" -c \
    'from edge_runtime import _kernels as k; k.SystemRng().bytes(9999); assert k.isa == "baseline", k.isa'
  # It has joined no fleet, which the doctor finds; that the kernels run has to be among what it says.
  "$environment/bin/fedge" device doctor >"$folder/doctor" || true
  grep '^ok *kernels' "$folder/doctor"
}

test_architecture() {
  architecture=$1
  case $architecture in
    arm64) machine=aarch64 triplet=aarch64-linux-gnu qemu=qemu-aarch64-static ;;
    armhf) machine=armv7l triplet=arm-linux-gnueabihf qemu=qemu-arm-static ;;
    *) echo "want arm64 or armhf; got $architecture" >&2; return 1 ;;
  esac
  folder=$source_tree/build/arm/$architecture
  root=$folder/root environment=$folder/environment toolchain=$source_tree/cmake/toolchains/$triplet.cmake
  export HOME=$folder/home
  step() { printf -- '-- %s: %s (%d s)\n' "$machine" "$1" "$SECONDS"; }
  step "root"; tests/arm/root.sh "$architecture" "$root"
  step "wheel"; build_wheel
  step "environment"; make_environment
  step "native tests"; native_tests
  step "Python tests"; python_tests
  step "done"
}

# Side by side, a log each: one core an architecture.
[ $# -gt 0 ] || set -- arm64 armhf
mkdir -p build/arm dist
declare -A running
for architecture in "$@"; do
  # A shell of its own: set -e does not hold inside a function whose status is looked at.
  (test_architecture "$architecture") >"build/arm/$architecture.log" 2>&1 &
  running[$architecture]=$!
done
failed=0
for architecture in "$@"; do
  status=0
  wait "${running[$architecture]}" || status=$?
  cat "build/arm/$architecture.log"
  [ "$status" = 0 ] || { echo "$architecture: failed" >&2; failed=1; }
done
exit "$failed"
