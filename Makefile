# SPDX-License-Identifier: MIT
# A front for meson. "make" builds, "make run" shows it, "make check" tests it; the last two install what they need first.
BUILD ?= build
CHECK_BUILD ?= build-check
PREFIX ?= /usr/local
MESON_ARGS ?=

all: $(BUILD)/build.ninja
	ninja -C $(BUILD)

$(BUILD)/build.ninja:
	meson setup $(BUILD) --prefix=$(PREFIX) $(MESON_ARGS)

$(CHECK_BUILD)/build.ninja:
	meson setup $(CHECK_BUILD) -Ddebug_checks=true $(MESON_ARGS)

deps-%:
	@scripts/install-deps $*

run: deps-run
	@$(MAKE) --no-print-directory all
	@scripts/demo.sh $(BUILD)

# Everything that is listed in tests/, built with the engine's own assertions; ends with one line that sums all suites.
check: deps-check
	@$(MAKE) --no-print-directory $(CHECK_BUILD)/build.ninja
	@scripts/check $(CHECK_BUILD)

# The kernel's own HMM test suite on "tandem dmirror". HMM_ARGS: another version of it, see scripts/check-hmm.
check-hmm: deps-hmm
	@$(MAKE) --no-print-directory $(CHECK_BUILD)/build.ninja
	@scripts/check-hmm $(HMM_ARGS) $(CHECK_BUILD)

# Do the tests notice when a protection is taken out? Minutes.
mutants: deps-check
	@tests/mutants/run.py build-mutants

# The explorer's model of memory against the axioms, then every scenario with wider bounds and by random priorities. An hour or more; EXPLORE_ARGS: words that scenarios must have in their names.
explore-deep: deps-build
	@$(MAKE) --no-print-directory all
	@tests/explore/rc11.py $(BUILD)/tests/explore/explore-model --programs 20000
	@tests/explore/run.py --deep --build $(BUILD) $(EXPLORE_ARGS)

# Scripts of operations against a model of bytes and rights, on all CPUs; FUZZ_ARGS: see tests/fuzz/run.py.
FUZZ_ARGS ?= --minutes 10
fuzz: deps-check
	@$(MAKE) --no-print-directory $(CHECK_BUILD)/build.ninja
	@tests/fuzz/run.py --build $(CHECK_BUILD) $(FUZZ_ARGS)

bench: deps-run
	@$(MAKE) --no-print-directory all
	@bench/run.sh $(BUILD)

install: all
	meson install -C $(BUILD) --no-rebuild

clean:
	rm -rf $(BUILD) $(CHECK_BUILD) build-asan build-tsan build-clang build-mutants

.PHONY: all run check check-hmm mutants fuzz explore-deep bench install clean
