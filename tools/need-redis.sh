#!/bin/sh
# The tests run against Debian's redis-server too. Install it as root; else say what is missing.
set -eu
missing=
command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
command -v redis-sentinel >/dev/null 2>&1 || missing="$missing redis-sentinel"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing$missing ..."
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >/dev/null
  # Not started as services: the tests start their own.
  RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null
  exit 0
fi
echo "The tests need Debian's packages:$missing" >&2
echo "Install them: sudo apt-get update && sudo apt-get install$missing" >&2
exit 1
