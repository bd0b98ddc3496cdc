#!/bin/sh
# SPDX-License-Identifier: MIT
# genmc.sh - a second opinion: lock-free parts of the engine under GenMC, which enumerates all executions that RC11 allows, without bounds. TAP. Where genmc is not on
# the PATH the harnesses are only compiled and run once, so that they do not rot.
set -u
cd "$(dirname "$0")/genmc" || exit 99
src=../../../src
out=$(mktemp -d) || exit 99
trap 'rm -rf "$out"' EXIT
n=0
failed=0

# point OK NAME
point()
{
	n=$((n + 1))
	if [ "$1" = 0 ]; then
		echo "ok $n - $2"
	else
		echo "not ok $n - $2"
		failed=1
	fi
}

# harness right|wrong FILE [FLAG...]: GenMC finds nothing, or something.
harness()
{
	what=$1
	file=$2
	shift 2
	${CC:-cc} -std=gnu17 -pthread -I"$src" "$@" "$file" -o "$out/x" >"$out/log" 2>&1 && { [ "$what" = wrong ] || "$out/x"; } >>"$out/log" 2>&1
	point $? "$file $*: compiles and runs"
	sed 's/^/# /' "$out/log"
	if command -v genmc >/dev/null 2>&1; then
		genmc -rc11 -- -I"$src" "$@" "$file" >"$out/log" 2>&1
		r=$?
		[ "$what" = right ] || r=$((r == 0))
		point "$r" "$file $*: $what, says genmc"
		[ "$r" = 0 ] || sed 's/^/# /' "$out/log"
	else
		n=$((n + 1))
		echo "ok $n - $file $*: $what # SKIP genmc is not installed"
	fi
}

harness right pae.c -DGETTER=0
harness wrong pae.c -DGETTER=1
harness right exclusive.c
harness right rcu.c
harness wrong rcu.c -DPLAIN_LOOK
echo "1..$n"
exit $failed
