#!/bin/sh
# Installs Debian's Chromium for the browser tests when none is there and when it may; otherwise says what is skipped.
set -u
for name in chromium chromium-browser google-chrome google-chrome-stable; do
  command -v "$name" >/dev/null 2>&1 && exit 0
done
if [ "$(id -u)" = 0 ]; then may=""; elif sudo -n true 2>/dev/null; then may="sudo"; else may="no"; fi
if [ "$may" != no ] && command -v apt-get >/dev/null 2>&1; then
  echo "Installing Chromium for the browser tests (once)"
  $may apt-get update -qq && $may env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit 0
fi
if [ "${CI:-}" = true ]; then
  echo "No Chromium here, and it could not be installed; with CI=true the browser tests may not be skipped." >&2
  exit 1
fi
echo "No Chromium here, and it could not be installed: the browser tests (marker ui) are skipped. Put a chromium on PATH to run them."
