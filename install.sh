#!/bin/sh
# The environment of this checkout, in .venv: `sh install.sh`, with the tools of the tests `sh install.sh test`.
# Versions are those of requirements.lock. Nothing is fetched twice: a stamp names what is ready.
set -eu
cd "$(dirname "$0")"
venv=.venv
kind=${1:-run}

refuse() {
  printf 'install: %s\n' "$1" >&2
  exit 2
}

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' >/dev/null 2>&1; }

# The first Python of a supported version; $PYTHON alone where it is set.
find_python() {
  for one in ${PYTHON:+"$PYTHON"} ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3 python}; do
    if fits "$one"; then
      command -v "$one"
      return
    fi
  done
  refuse "${PYTHON:-python3.11 to python3.14} not found or of another version. Install Python 3.11 \
to 3.14 (apt install python3-venv, brew install python@3.12, uv python install 3.12), or name one: \
PYTHON=/path/to/python3.12 make install"
}

# What must be the same for the stamp to hold; a moved folder has scripts with dead first lines.
inputs() {
  files="requirements.lock pyproject.toml"
  [ "$kind" = run ] || files="$files requirements-test.lock"
  pwd
  $venv/bin/python -V
  # shellcheck disable=SC2086
  cksum $files
}

is_ready() {
  for stamp in "$venv/.ready-$kind" "$venv/.ready-test"; do
    [ -f "$stamp" ] && inputs >"$venv/.inputs" 2>/dev/null && cmp -s "$stamp" "$venv/.inputs" && return
    [ "$kind" = run ] || return 1
  done
  return 1
}

make_venv() {
  if [ -e "$venv" ] && [ "$(cat "$venv/.place" 2>/dev/null || pwd)" = "$(pwd)" ] &&
    fits "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    return
  fi
  python=$(find_python) || exit $?
  "$python" -m venv --clear "$venv" >"${TMPDIR:-/tmp}/afd-venv.$$" 2>&1 || {
    cat "${TMPDIR:-/tmp}/afd-venv.$$" >&2
    rm -f "${TMPDIR:-/tmp}/afd-venv.$$"
    refuse "$python cannot make $venv (its words are above): on Debian and Ubuntu apt install python3-venv; \
else look at the rights and the free space of $(pwd)"
  }
  rm -f "${TMPDIR:-/tmp}/afd-venv.$$"
  pwd >"$venv/.place"
}

enough_room() {
  free_mb=$(($(df -Pk . | awk 'END { print $4 }') / 1024))
  [ "$free_mb" -ge 2500 ] || refuse "$free_mb MB free in $(pwd): 2,500 MB are needed with CPU wheels of torch, \
7,000 MB with the CUDA build. Free some, or clone to another disk"
}

pip() {
  # Twice quiet: errors alone, without a warning for every index that pip was given.
  "$venv/bin/python" -m pip --disable-pip-version-check --quiet --quiet "$@" ||
    refuse "pip failed (its words are above), nothing counts as ready. No network or a proxy: \
HTTPS_PROXY=http://host:port make install; without network: a folder of wheels, \
PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels make install. Else rm -rf .venv and make install again"
}

works() {
  "$venv/bin/python" -m pip --disable-pip-version-check check ||
    refuse "packages in $venv contradict each other (above): rm -rf .venv and make install again"
  "$venv/bin/python" -c 'import torch, diffusers, prefect, mlflow, dvc, submitit, flows.cli, afd.stages.execute' ||
    refuse "installed, but an import fails (above): rm -rf .venv and make install again"
  "$venv/bin/afd" --help >/dev/null || refuse "$venv/bin/afd does not start (above)"
}

is_ready && exit 0
make_venv
rm -f "$venv"/.ready*
extra=
constraints="-c requirements.lock"
if [ "$kind" = test ]; then
  extra="[test]"
  constraints="$constraints -c requirements-test.lock"
fi
if ! "$venv/bin/python" -c 'import torch' >/dev/null 2>&1; then
  enough_room
  echo "installing into $venv: 2.3 GB with CPU wheels of torch, 6 GB with the CUDA build of plain PyPI; some minutes"
fi
# The build backend first, of the pinned version: then nothing outside the lock files is fetched.
# shellcheck disable=SC2086
pip install $constraints setuptools
# shellcheck disable=SC2086
pip install $constraints --no-build-isolation --editable ".$extra"
works >"$venv/.works" || { cat "$venv/.works" >&2; exit 2; }
inputs >"$venv/.ready-$kind"
echo "ready: $("$venv/bin/python" -c 'import torch; print("torch", torch.__version__)'), $(du -sh "$venv" | cut -f1) in $venv"
