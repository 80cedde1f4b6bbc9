#!/bin/sh
# Debian packages that some tests want, and benchmarks of SLURM: `system_packages.sh [browser] [slurm]`.
# They are named first. AFD_SYSTEM_PACKAGES=yes installs, =no declines; unset: CI=true installs, a terminal is
# asked, and anything else declines. Tests that want what is missing skip and say so.
set -eu
here=$(dirname "$0")

browser() {
  for program in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$program" >/dev/null; then return; fi
  done
  echo chromium
}

packages=
for kind in "$@"; do
  case $kind in
  browser) packages="$packages $(browser)" ;;
  slurm) packages="$packages $("$here/slurm/cluster.sh" packages | xargs)" ;;
  *) echo "usage: $0 [browser] [slurm]" >&2; exit 2 ;;
  esac
done
packages=$(echo "$packages" | xargs)
[ -n "$packages" ] || exit 0

echo "some tests want Debian packages that are not here: $packages (Chromium: 400 MB, SLURM: 100 MB)"
answer=${AFD_SYSTEM_PACKAGES:-}
if [ -z "$answer" ] && [ "${CI:-}" = true ]; then answer=yes; fi
if [ -z "$answer" ] && [ -t 0 ]; then
  printf 'install them with apt-get? [y/N] '
  read -r answer || answer=no
fi
case $answer in
y | Y | yes | Yes) ;;
*)
  echo "not installed: those tests skip (AFD_SYSTEM_PACKAGES=yes make test installs them)"
  exit 0
  ;;
esac
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installed: it needs root and apt-get (sudo apt-get install --no-install-recommends $packages); those tests skip"
  exit 0
fi
policy=/usr/sbin/policy-rc.d # the packages would start daemons of their own
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod +x $policy
  trap 'rm -f $policy' EXIT
fi
log=$(mktemp)
# shellcheck disable=SC2086
if { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages; } >"$log" 2>&1; then
  echo "installed: $packages"
else
  tail -5 "$log"
  echo "apt-get could not install $packages: those tests skip"
fi
rm -f "$log"
