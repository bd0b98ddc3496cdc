#!/bin/sh
# SPDX-License-Identifier: MIT
# lint.sh ROOT - rules about the sources, one TAP point each: who may include what, licence lines, what plat.h is the only door to.
set -u
cd "$1" || exit 99

# verdict NAME: stdin is what breaks the rule.
verdict()
{
	bad=$(cat)
	if [ -z "$bad" ]; then
		echo "ok - $1"
	else
		echo "not ok - $1"
		echo "$bad" | sed 's/^/# /'
	fi
}

# In a checkout what is tracked or about to be; in an unpacked archive everything but build directories.
sources()
{
	if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
		git ls-files --cached --others --exclude-standard -- "$@" | while read -r f; do [ -e "$f" ] && echo "$f"; done
	else
		find "$@" -type f ! -path '*/build*/*' ! -path './.git/*' | sed 's|^\./||'
	fi
}

# includes FILE...: "file: <header>" or "file: "header"", one a line.
includes()
{
	grep -HoE '^[[:space:]]*#[[:space:]]*include[[:space:]]+[<"][^>"]+[>"]' "$@" |
		sed -E 's/:[[:space:]]*#[[:space:]]*include[[:space:]]+/: /'
}

rules()
{
	pure='<(stdint|stddef|stdbool|stdarg|errno|string)\.h>'
	down='"(base/[a-z0-9_]+|plat/plat)\.h"'

	# Code that may be compiled without an operating system. swap and the pools use the codecs' libraries.
	includes $(sources src/mm | grep '\.[ch]$') |
		grep -vE ": ($pure|$down|\"mm/[a-z0-9_]+\.h\"|\"port/port\.h\"|\"pool/(tier|pool)\.h\")$" |
		grep -vE '^src/mm/swap[a-z_]*\.[ch]: "pool/codec\.h"$' |
		verdict 'src/mm includes base, plat.h and the port and pool interfaces only'

	includes $(sources src/base | grep '\.[ch]$') |
		grep -vE ": ($pure|$down)$" | grep -vE '^src/base/atomic\.h: <stdatomic\.h>$' |
		verdict 'src/base includes base and plat.h only'

	includes $(sources src/pool | grep '\.[ch]$') |
		grep -vE ": ($pure|$down|\"pool/[a-z0-9_]+\.h\"|<(lz4|lz4hc|zstd|zstd_errors|xxhash|sodium)\.h>)$" |
		verdict 'src/pool includes base, plat.h, pool and the codecs only'

	includes $(sources src include | grep '\.[ch]$') | grep '<stdatomic\.h>' | grep -v '^src/base/atomic\.h:' |
		verdict 'atomic.h is the only file that includes <stdatomic.h>'

	includes $(sources src | grep '\.[ch]$') | grep -E '^src/(base|plat|mm|port|pool)/.*: "(run|cmd|sim)/' |
		verdict 'arrows point down: nothing below src/run, src/cmd includes from them'

	grep -nE '(^|[^.>_[:alnum:]])(malloc|calloc|realloc|free|printf|fprintf|snprintf|strerror|getenv|pthread_[a-z_]+)\(' \
		$(sources src/mm src/pool src/base | grep '\.[ch]$') /dev/null | grep -vE '(\*|//) ' |
		verdict 'src/mm, src/pool and src/base call no libc function that allocates, locks or formats'

	for f in $(sources . | grep -vE '(^|/)(LICENSE|\.gitignore|\.gitattributes)$|\.(md|txt|json|csv|svg|png|tap)$'); do
		head -5 "$f" | grep -q 'SPDX-License-Identifier: MIT' || echo "$f"
	done | verdict 'every source file has its SPDX line'

	grep -lE '	| $' /dev/null $(sources meson.build src tests examples | grep 'meson\.build$') | verdict 'no tabs or trailing blanks in meson.build files'

	grep -nE '[[:blank:]]+$' /dev/null $(sources src include tests examples | grep '\.[ch]$') | verdict 'no trailing blanks in C files'

	# The public symbols are those of the headers, no more and no less.
	{
		grep -hE '^TDM_API' include/tandem/*.h | grep -oE '\btdm_[a-z_]+\(' | tr -d '(' | sort -u
		grep -oE '\btdm_[a-z_]+;' src/tandem.map | tr -d ';' | sort -u
	} | sort | uniq -u | verdict 'tandem.map lists the functions of the public headers'

	# ThreadSanitizer runs those tests whose text starts threads (tests/unit/meson.build).
	grep -nE '\b(pthread_create|plat_thread_start)\(' /dev/null $(sources src/base src/mm src/pool src/port src/sim | grep '\.[ch]$') $(sources tests/unit tests/runner | grep '\.h$') |
		verdict 'threads of unit tests are started in the text of the test alone'

	# Whatever was there before, another machine does not have it; and whatever is left behind, the next run would find.
	grep -nE '/work/|/(var/)?tmp/[[:alnum:]$%{]' /dev/null $(sources .ci scripts tests bench Makefile) | grep -vE '^tests/lint/|XXXXXX|\.md:' |
		verdict 'nothing that tests relies on files outside of the tree'

	if command -v shellcheck >/dev/null 2>&1; then
		for f in $(sources .ci scripts tests bench | grep -vE '\.(c|h|py|build|md)$'); do
			head -1 "$f" | grep -qE '^#!/bin/(ba)?sh' && shellcheck -S warning -e SC2046 "$f"
		done | verdict 'shellcheck'
	else
		echo "ok - shellcheck # SKIP not installed"
	fi
}

rules | awk '/^(not )?ok/ { n++ } { print } END { print "1.." n }'
