#!/usr/bin/env bash
# tests/arm/root.sh ARCHITECTURE FOLDER: Debian's Python, NumPy and what else a board takes from the distribution, of another
# architecture (arm64, armhf), unpacked into FOLDER. Nothing is installed and nothing outside FOLDER is touched: apt gets a state of its
# own and packages are unpacked without running their scripts.
set -euo pipefail
architecture=$1
folder=$(mkdir -p "$2" && cd "$2" && pwd)
[ -e "$folder/.complete" ] && exit

# What docs/boards.md tells a board's owner to install (the C++ library is there wherever apt is); the rest only tests need.
packages=(python3-numpy python3-cryptography python3-serial python3-cbor2 python3-pip libstdc++6
  python3-rich python3-pytest python3-pytest-timeout python3-hypothesis)

scratch=$folder.apt
trap 'rm -rf "$scratch"' EXIT
rm -rf "$folder" "$scratch"
mkdir -p "$folder" "$scratch"/state/lists/partial "$scratch"/cache/archives/partial
touch "$scratch/status"
apt=(apt-get -qq -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" -o APT::Sandbox::User=root
  -o APT::Install-Recommends=false -o Acquire::Languages=none -o Acquire::Retries=3
  -o Dir::State="$scratch/state" -o Dir::State::status="$scratch/status" -o Dir::Cache="$scratch/cache"
  -o APT::Update::Post-Invoke-Success::= -o Dir::Log="$scratch")
# A mirror may lack one suite's index for a while; the others have every package too.
"${apt[@]}" update || echo "going on without the indexes that are missing"
"${apt[@]}" install --yes --download-only "${packages[@]}" >"$scratch/log" || { cat "$scratch/log" >&2; exit 1; }
# The headers alone: their package wants a compiler of that architecture.
(cd "$scratch/cache/archives" && "${apt[@]}" download libpython3.11-dev)
for package in "$scratch"/cache/archives/*.deb; do
  dpkg-deb --extract "$package" "$folder"
done
# The packages' scripts would make these links, to the reference implementations.
for library in "$folder"/usr/lib/*/blas/libblas.so.3 "$folder"/usr/lib/*/lapack/liblapack.so.3; do
  ln -s "$(basename "$(dirname "$library")")/$(basename "$library")" "$(dirname "$library")/.."
done
touch "$folder/.complete"
