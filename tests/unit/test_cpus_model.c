// SPDX-License-Identifier: MIT
/*
 * test_cpus_model.c - whatever CPUs, spaces and flushes do, nobody reads or writes through a translation that was flushed.
 *
 * Random accesses, switches and changes of entries, checked in two ways. A frame that comes off is given to the next mapping at once, so a write through a
 * stale translation shows in somebody's bytes; all bytes are known. And, seldom, each entry that a CPU could use now is compared with the table: it names the
 * same frame, and gives no right that the table does not.
 */
#include "cpus_world.h"

#define PIECES 4u /* words of a leaf that are known */

static u64 bytes[SPACES][SMALL + HUGE][PIECES];
static u64 free_small[FRAMES], free_huge[8];
static u32 nsmall, nhuge;
static u64 rng, stamp;

static u64 roll(u64 n)
{
	return t_rand(&rng) % n;
}

static u64 piece(u32 m, u32 p)
{
	return va_of(m) + p * (((u64)1 << shift_of(m)) / PIECES) + 8 * p;
}

static u8 *frame(u64 pfn)
{
	return world.phys.range[0].bytes + ((pfn - FIRST) << TDM_PAGE_SHIFT);
}

static u64 frame_take(u32 m)
{
	if (m < SMALL ? !nsmall : !nhuge)
		return 0;
	return m < SMALL ? free_small[--nsmall] : free_huge[--nhuge];
}

/* Whoever still reads it sees that it is nobody's. */
static void frame_give(u32 m, u64 pfn)
{
	for (u32 p = 0; p < PIECES; p++)
		*(u64 *)(void *)(frame(pfn) + (piece(m, p) - va_of(m))) = ~(u64)0;
	if (m < SMALL)
		free_small[nsmall++] = pfn;
	else
		free_huge[nhuge++] = pfn;
}

static void map(u32 id, u32 m, bool writable)
{
	struct mapping *w = &want[id][m];
	u64 pfn = frame_take(m);

	if (!pfn)
		return;
	*w = (struct mapping){ true, writable, pfn };
	for (u32 p = 0; p < PIECES; p++) {
		bytes[id][m][p] = ++stamp;
		*(u64 *)(void *)(frame(pfn) + (piece(m, p) - va_of(m))) = stamp;
	}
}

static u32 somebody(void)
{
	return (u32)roll(cpus.config.n);
}

/* Mappings [m, end) of one size go: entries first, one flush, then the frames. */
static void unmap(u32 id, u32 m, u32 end)
{
	for (u32 i = m; i < end; i++)
		if (want[id][i].mapped)
			entry_xchg(&space[id], i, (struct tdm_pte){ 0 });
	flush(somebody(), id, va_of(m), va_of(end - 1) + ((u64)1 << shift_of(m)), shift_of(m));
	for (u32 i = m; i < end; i++) {
		if (want[id][i].mapped)
			frame_give(i, want[id][i].pfn);
		want[id][i].mapped = false;
	}
}

/* Another frame with the same bytes, as migration and CoW do. */
static void move(u32 id, u32 m)
{
	struct mapping *w = &want[id][m];
	u64 was = w->pfn, pfn = frame_take(m);

	if (!pfn)
		return;
	entry_xchg(&space[id], m, (struct tdm_pte){ 0 });
	flush(somebody(), id, va_of(m), va_of(m) + ((u64)1 << shift_of(m)), shift_of(m));
	for (u32 p = 0; p < PIECES; p++)
		*(u64 *)(void *)(frame(pfn) + (piece(m, p) - va_of(m))) = *(u64 *)(void *)(frame(was) + (piece(m, p) - va_of(m)));
	w->pfn = pfn;
	frame_give(m, was);
}

static void protect(u32 id, u32 m)
{
	struct mapping *w = &want[id][m];
	u32 i;
	struct tdm_pt *pt = entry_lock(&space[id], m, &i);

	w->writable = !w->writable;
	if (tdm_pte_present(tdm_pt_get(pt, i)) && !w->writable)
		tdm_pt_change(pt, i, 0, TDM_PTE_WRITE);
	tdm_pt_unlock(pt);
	/* More rights need no flush. */
	if (!w->writable)
		flush(somebody(), id, va_of(m), va_of(m) + ((u64)1 << shift_of(m)), shift_of(m));
}

/* Its dirty and accessed bits are taken away, so that they are set again. */
static void clean(u32 id, u32 m)
{
	u32 i;
	struct tdm_pt *pt = entry_lock(&space[id], m, &i);

	if (tdm_pte_present(tdm_pt_get(pt, i)))
		tdm_pt_change(pt, i, 0, TDM_PTE_DIRTY | TDM_PTE_ACCESSED);
	tdm_pt_unlock(pt);
	flush(somebody(), id, va_of(m), va_of(m) + ((u64)1 << shift_of(m)), shift_of(m));
}

static void access_one(u32 cpu)
{
	struct tdm_core *k = &cpus.core[cpu];
	u32 m = (u32)(roll(8) ? roll(SMALL) : SMALL + roll(HUGE)), p = (u32)roll(PIECES);
	struct mapping *w;
	u64 word = 0;
	int r;

	if (!k->s || k->lazy)
		return;
	w = &want[k->s->id][m];
	if (roll(2)) {
		r = tdm_cpus_load(&cpus, cpu, piece(m, p), &word);
		CHECK_EQ(r, w->mapped ? 0 : -EFAULT);
		if (!r)
			CHECK_EQ(word, bytes[k->s->id][m][p]);
	} else {
		r = tdm_cpus_store(&cpus, cpu, piece(m, p), ++stamp);
		CHECK_EQ(r, w->mapped && w->writable ? 0 : -EFAULT);
		if (!r) {
			bytes[k->s->id][m][p] = stamp;
			CHECK(entry(k->s, m).v & TDM_PTE_DIRTY);
			CHECK_EQ(*(u64 *)(void *)(frame(w->pfn) + (piece(m, p) - va_of(m))), stamp);
		}
	}
	if (!r)
		CHECK(entry(k->s, m).v & TDM_PTE_ACCESSED);
}

/* ---- what CPUs could use now ----------------------------------------------------------------------------------------------------- */

static void check_entry(struct tdm_space *s, u64 va, const struct tdm_tlb_entry *e)
{
	u32 m = mapping_at(va);
	struct tdm_pte pte = entry(s, m);
	u64 rights = TDM_PTE_PRESENT | TDM_PTE_WRITE | TDM_PTE_DIRTY | TDM_PTE_ACCESSED;

	CHECK(m < SMALL + HUGE && e->shift <= shift_of(m));
	CHECK_EQ(tdm_pte_pfn(e->pte).v, tdm_pte_pfn(pte).v + ((va - va_of(m)) >> TDM_PAGE_SHIFT));
	CHECK_EQ(e->pte.v & rights & ~pte.v, 0);
	CHECK(e->bytes == frame(tdm_pte_pfn(e->pte).v));
}

static void check_tlbs(void)
{
	for (u32 cpu = 0; cpu < cpus.config.n; cpu++) {
		struct tdm_core *k = &cpus.core[cpu];

		for (u32 i = 0; k->s && !k->lazy && i < TDM_TLB_LEVELS * TDM_TLB_SIZES; i++) {
			struct tdm_tlb_array *a = &k->tlb.array[i / TDM_TLB_SIZES][i % TDM_TLB_SIZES];

			for (u32 j = 0; a->key && j < (a->mask + 1) * a->ways; j++) {
				u64 key = a->key[j / a->ways * (a->ways + 1) + j % a->ways];

				if (key == TDM_TLB_EMPTY || tdm_tlb_key_asid(key) != k->asid)
					continue;
				CHECK_EQ(tdm_tlb_key_shift(key), a->e[j].shift);
				check_entry(k->s, tdm_tlb_key_va(key), &a->e[j]);
			}
		}
	}
}

/* ---- random --------------------------------------------------------------------------------------------------------------------------- */

static void respawn(u32 id)
{
	for (u32 cpu = 0; cpu < cpus.config.n; cpu++)
		if (cpus.core[cpu].s == &space[id] && !cpus.core[cpu].lazy) {
			if (roll(2))
				tdmi_cpus_idle(&cpus, cpu);
			else
				CHECK_EQ(tdmi_cpus_switch(&cpus, cpu, &space[(id + 1) % SPACES]), 0);
		}
	tdmi_cpus_forget(&cpus, &space[id]);
	unmap(id, 0, SMALL);
	unmap(id, SMALL, SMALL + HUGE);
	space_unmake(id);
	space_make(id);
}

static void change(u32 id)
{
	u32 m = (u32)(roll(6) ? roll(SMALL) : SMALL + roll(HUGE)), last = m < SMALL ? SMALL : SMALL + HUGE;

	if (!want[id][m].mapped) {
		map(id, m, roll(4));
		return;
	}
	switch (roll(8)) {
	case 0:
		unmap(id, m, m + 1 + (u32)roll(last - m));
		break;
	case 1:
		move(id, m);
		break;
	case 2:
		protect(id, m);
		break;
	case 3:
		clean(id, m);
		break;
	case 4:
		if (!roll(40))
			respawn(id);
		break;
	case 5:
		if (!roll(10))
			flush(somebody(), id, 0, ~(u64)0, 12);
		break;
	default:
		unmap(id, m, m + 1);
	}
}

static void model(const struct tdm_cpus_config *config, u32 rounds)
{
	setup(config);
	rng = t_seed() + config->n + config->asids * 7 + (u64)config->means * 1000;
	nsmall = nhuge = 0;
	stamp = 0;
	for (u64 i = 0; i < 8; i++)
		free_huge[nhuge++] = FIRST + i * TDM_HUGE_PAGES;
	for (u64 i = 8 * TDM_HUGE_PAGES; i < 8 * TDM_HUGE_PAGES + 300; i++)
		free_small[nsmall++] = FIRST + i;
	for (u32 k = 0; k < rounds; k++) {
		u32 cpu = somebody();
		u64 r = roll(100);

		if (r < 3)
			CHECK_EQ(tdmi_cpus_switch(&cpus, cpu, &space[roll(SPACES)]), 0);
		else if (r < 4)
			tdmi_cpus_idle(&cpus, cpu);
		else if (r < 5 && cpus.core[cpu].s)
			CHECK_EQ(tdmi_cpus_switch(&cpus, cpu, cpus.core[cpu].s), 0);
		else if (r < 20)
			change((u32)roll(SPACES));
		else
			access_one(cpu);
		if (k % 128 == 0)
			check_tlbs();
	}
	check_clocks();
}

static u32 rounds(void)
{
	return t_slow() ? 30000 : 100000;
}

static void all_numbers_of_cpus(enum tdm_flush_means means, bool untracked)
{
	static const u32 n[] = { 1, 2, 4, 9 };

	for (u32 i = 0; i < TDM_ARRAY_SIZE(n); i++) {
		for (u32 k = 0; k < 3; k++) {
			u32 asids = k == 0 ? 0 : k == 2 ? 300 : means == TDM_FLUSH_BROADCAST ? n[i] + 1 : 3;
			struct tdm_cpus_config config = config_make(n[i], asids, means);

			config.untracked = untracked;
			config.caps = k == 2 ? HW : k == 1 ? TDM_WALK_HW_A : 0;
			config.page_sizes = i == 1 ? (u64)1 << 12 : ALL_SIZES;
			model(&config, rounds());
			/* It was about what it is about. */
			CHECK(stats(~0u).tlb_hits[0] > rounds() / 100 && stats(~0u).flushed > rounds() / 1000);
			CHECK(stats(~0u).flushes[TDM_FLUSH_LOCAL] > (t_slow() ? 0 : 10) || untracked); /* with nine CPUs and as many ASIDs they are few */
			CHECK(n[i] == 1 || means == TDM_FLUSH_LOCAL || stats(~0u).flushes[means] > rounds() / 1000);
			CHECK(k == 2 ? !stats(~0u).generations : stats(~0u).generations > rounds() / 2000);
			CHECK(means == TDM_FLUSH_BROADCAST || untracked || stats(~0u).flushes_late);
			teardown();
		}
	}
}

TEST(ipi, .seconds = 120)
{
	all_numbers_of_cpus(TDM_FLUSH_IPI, false);
}

TEST(broadcast, .seconds = 120)
{
	all_numbers_of_cpus(TDM_FLUSH_BROADCAST, false);
}

TEST(ideal, .seconds = 120)
{
	all_numbers_of_cpus(TDM_FLUSH_LOCAL, false);
}

TEST(untracked_ipi, .seconds = 120)
{
	all_numbers_of_cpus(TDM_FLUSH_IPI, true);
}

TEST(untracked_broadcast, .seconds = 120)
{
	all_numbers_of_cpus(TDM_FLUSH_BROADCAST, true);
}

TEST(one_run_is_as_the_other)
{
	struct tdm_cpus_config config = config_make(4, 5, TDM_FLUSH_IPI);
	struct tdm_cpu_stats st;
	u64 end;

	config.cost = (struct tdm_cpu_costs){ .access = 1, .walk_read = 20, .ipi_send = 100, .ipi_handle = 500, .tlb_local_entry = 9 };
	model(&config, 20000);
	st = stats(~0u);
	end = rng;
	teardown();
	model(&config, 20000);
	CHECK(st.flushed && st.cycles[TDM_CYC_IPI_HANDLE]);
	CHECK_EQ(end, rng);
	for (u32 i = 0; i < sizeof(st) / sizeof(u64); i++) {
		struct tdm_cpu_stats again = stats(~0u);

		CHECK_EQ(((u64 *)&st)[i], ((u64 *)&again)[i]);
	}
	teardown();
}
