use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { sequences: 4, step_tokens: 128, context: 1024 };

fn prompt(first: u32, len: usize) -> Vec<u32> {
    (first..).take(len).collect()
}

/// Runs one step: every latent is computed, every end reached appends `token`, drafts are accepted if equal.
fn step(scheduler: &mut Scheduler, prompt_tokens: usize, token: u32) -> Plan {
    let plan = scheduler.plan(prompt_tokens);
    plan.copies.iter().for_each(|copy| scheduler.copied(copy));
    for work in &plan.work {
        if work.reaches_end {
            scheduler.append(work.id, token);
        }
        let accepted = work.draft.is_some_and(|draft| draft == token);
        if accepted {
            scheduler.append(work.id, token);
        }
        scheduler.computed(work.id, work.tokens + usize::from(accepted));
    }
    plan
}

fn tokens(plan: &Plan) -> Vec<(u64, usize)> {
    plan.work.iter().map(|work| (work.id, work.tokens)).collect()
}

#[test]
fn prompts_run_in_pieces_beside_decoding() {
    let mut scheduler = Scheduler::new(LIMITS, 100);
    scheduler.add(1, "a", "", prompt(0, 10));
    assert_eq!(tokens(&step(&mut scheduler, 128, 7)), [(1, 10)]);
    scheduler.add(2, "a", "", prompt(1000, 300));
    assert_eq!(tokens(&step(&mut scheduler, 50, 7)), [(1, 1), (2, 50)]);
    assert_eq!(tokens(&step(&mut scheduler, 512, 7)), [(1, 1), (2, 127)], "a step has 128 tokens");
    assert_eq!(tokens(&step(&mut scheduler, 512, 7)), [(1, 1), (2, 123)]);
    assert_eq!(scheduler.decoding(), 2);
    assert_eq!(tokens(&step(&mut scheduler, 512, 7)), [(1, 1), (2, 1)]);
}

#[test]
fn a_prefix_is_computed_once_even_by_those_who_come_together() {
    let mut scheduler = Scheduler::new(Limits { step_tokens: 1000, ..LIMITS }, 100);
    for id in 0..3 {
        let mut prompt = prompt(0, 200);
        prompt.push(500 + id as u32);
        scheduler.add(id, "a", "", prompt);
    }
    scheduler.add(3, "a", "another", prompt(0, 200));
    assert_eq!(
        tokens(&step(&mut scheduler, 1000, 7)),
        [(0, 201), (3, 200)],
        "another namespace waits for none"
    );
    let plan = step(&mut scheduler, 1000, 7);
    assert_eq!(
        plan.admitted,
        [(1, 200), (2, 200)],
        "three blocks, and a copy of what the fourth begins with"
    );
    let from = scheduler.entry(0).blocks[3];
    let copy = |id| Copy { from, to: scheduler.entry(id).blocks[3] };
    assert_eq!(plan.copies, [copy(1), copy(2)]);
    assert_eq!(tokens(&plan), [(0, 1), (3, 1), (1, 1), (2, 1)]);
    assert_eq!(scheduler.entry(0).blocks[..3], scheduler.entry(2).blocks[..3]);
    assert_ne!(scheduler.entry(0).blocks[3], scheduler.entry(2).blocks[3]);
}

#[test]
fn the_last_token_of_a_cached_prompt_runs() {
    let mut scheduler = Scheduler::new(LIMITS, 100);
    scheduler.add(0, "a", "", prompt(0, 128));
    step(&mut scheduler, 128, 7);
    scheduler.remove(0);
    scheduler.add(1, "a", "", prompt(0, 128));
    assert_eq!(tokens(&step(&mut scheduler, 128, 7)), [(1, 1)]);
}

/// A conversation goes on in the middle of a block; what held it is copied, not shared, for others may go on otherwise.
#[test]
fn a_conversation_goes_on_where_it_ended() {
    let mut scheduler = Scheduler::new(LIMITS, 100);
    scheduler.add(0, "a", "", prompt(0, 70));
    step(&mut scheduler, 128, 500);
    step(&mut scheduler, 128, 501);
    let block = scheduler.entry(0).blocks[1];
    scheduler.remove(0);
    assert_eq!(scheduler.pool.held(), 0);
    let next = |end: u32| [prompt(0, 70), vec![500, end, 600, 601]].concat();
    scheduler.add(1, "a", "", next(501));
    scheduler.add(2, "a", "other", next(501));
    let plan = step(&mut scheduler, 128, 7);
    assert_eq!(
        plan.admitted,
        [(1, 71), (2, 0)],
        "501 was written, but never computed; a stranger has nothing"
    );
    assert_eq!(plan.copies, [Copy { from: block, to: scheduler.entry(1).blocks[1] }]);
    assert_ne!(block, scheduler.entry(1).blocks[1]);
    scheduler.add(3, "a", "", next(777));
    scheduler.add(4, "b", "", next(501));
    let admitted = step(&mut scheduler, 128, 7).admitted;
    assert_eq!(admitted, [(3, 71), (4, 64)], "another tenant finds whole blocks only");
}

/// With no block to spare the copy is left out, and nothing else changes.
#[test]
fn a_copy_never_takes_the_last_block() {
    let mut scheduler = Scheduler::new(LIMITS, 2);
    scheduler.add(0, "a", "", prompt(0, 100));
    step(&mut scheduler, 128, 7);
    scheduler.remove(0);
    scheduler.add(1, "a", "", prompt(0, 110));
    let plan = step(&mut scheduler, 128, 7);
    assert_eq!((plan.admitted, plan.copies), (vec![(1, 64)], vec![]));
}

#[test]
fn who_came_last_makes_room_and_finds_its_latents_again() {
    // Four blocks: 2 · 65 tokens fill them, and the next block is one too many.
    let mut scheduler = Scheduler::new(Limits { step_tokens: 1000, ..LIMITS }, 6);
    scheduler.add(0, "a", "", prompt(0, 65));
    scheduler.add(1, "b", "", prompt(1000, 65));
    let mut preempted = Vec::new();
    for _ in 0..400 {
        preempted.extend(step(&mut scheduler, 1000, 7).preempted);
        if scheduler.entry(0).tokens.len() >= 300 {
            break;
        }
    }
    assert_eq!(preempted, [1], "and it is not let in again before there is room");
    let had = scheduler.entry(1).tokens.len();
    scheduler.remove(0);
    let plan = step(&mut scheduler, 1000, 7);
    assert_eq!(plan.admitted.len(), 1);
    assert!(plan.work[0].tokens <= had && plan.work[0].reaches_end);
    assert_eq!(scheduler.entry(1).tokens.len(), had + 1);
}

#[test]
fn drafts_are_run_where_there_is_room_and_context() {
    let mut scheduler = Scheduler::new(Limits { context: 66, ..LIMITS }, 2);
    scheduler.add(0, "a", "", prompt(0, 62));
    step(&mut scheduler, 128, 7);
    scheduler.set_draft(0, Some(7));
    let plan = step(&mut scheduler, 128, 7);
    assert_eq!(plan.work, [Work { id: 0, tokens: 1, draft: Some(7), reaches_end: true }]);
    assert_eq!((scheduler.entry(0).computed, scheduler.entry(0).tokens.len()), (64, 65));
    scheduler.set_draft(0, Some(9));
    assert_eq!(step(&mut scheduler, 128, 7).work[0].draft, Some(9));
    assert_eq!((scheduler.entry(0).computed, scheduler.entry(0).tokens.len()), (65, 66), "rejected");
    assert_eq!(step(&mut scheduler, 128, 7).work[0].draft, None, "no position left for it");
}

#[test]
fn blocks_come_from_disk_before_a_prompt_runs() {
    let mut scheduler = Scheduler::new(LIMITS, 100);
    let mut names = Vec::new();
    name_blocks(BlockName::root(""), &prompt(0, 128), &mut names);
    names.iter().for_each(|&name| scheduler.set_stored(name, true));
    scheduler.add(0, "a", "", prompt(0, 150));
    let plan = scheduler.plan(128);
    assert!(plan.work.is_empty() && plan.admitted.is_empty());
    assert_eq!(plan.fetches.len(), 1);
    assert_eq!(plan.fetches[0].blocks.iter().map(|(_, name)| *name).collect::<Vec<_>>(), names);
    assert!(scheduler.plan(128).work.is_empty(), "it waits");
    assert_eq!(scheduler.fetched(0, 1), Some(64), "one was damaged");
    assert_eq!(tokens(&step(&mut scheduler, 128, 7)), [(0, 86)]);
    assert_eq!(scheduler.fetched(0, 1), None);
}

#[derive(Clone, Debug)]
enum Happening {
    Add { tenant: u8, first: u32, len: usize },
    Remove(usize),
    Step { prompt_tokens: usize, draft: bool },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0u8..3, 0u32..3, 1usize..300).prop_map(|(tenant, first, len)| Happening::Add { tenant, first, len }),
        (0usize..8).prop_map(Happening::Remove),
        (1usize..200, any::<bool>())
            .prop_map(|(prompt_tokens, draft)| Happening::Step { prompt_tokens, draft }),
    ]
}

proptest! {
    /// No sequence writes to a block that another reads, none runs without blocks, what it counts as computed is its own
    /// prefix, and all come to their end.
    #[test]
    fn every_schedule_is_sound(happenings in prop::collection::vec(happening(), 1..120)) {
        let limits = Limits { sequences: 3, step_tokens: 100, context: 400 };
        let mut scheduler = Scheduler::new(limits, 7);
        let (mut ids, mut next) = (Vec::new(), 0);
        // Whose latents are where.
        let mut cache = [[u32::MAX; BLOCK_TOKENS]; 7];
        for happening in happenings {
            match happening {
                Happening::Add { tenant, first, len } => {
                    scheduler.add(next, &tenant.to_string(), "", prompt(first, len));
                    ids.push(next);
                    next += 1;
                }
                Happening::Remove(which) if !ids.is_empty() => {
                    scheduler.remove(ids.swap_remove(which % ids.len()));
                }
                Happening::Remove(_) => {}
                Happening::Step { prompt_tokens, draft } => {
                    let plan = scheduler.plan(prompt_tokens);
                    prop_assert!(plan.work.len() <= 3);
                    for copy in &plan.copies {
                        cache[copy.to as usize] = cache[copy.from as usize];
                        scheduler.copied(copy);
                    }
                    for work in &plan.work {
                        let entry = scheduler.entry(work.id);
                        let rows = work.tokens + usize::from(work.draft.is_some());
                        let written = entry.computed / BLOCK_TOKENS..(entry.computed + rows).div_ceil(BLOCK_TOKENS);
                        prop_assert!(written.end <= entry.blocks.len());
                        let place = |at: usize| (entry.blocks[at / BLOCK_TOKENS] as usize, at % BLOCK_TOKENS);
                        for at in 0..entry.computed {
                            let (block, row) = place(at);
                            prop_assert_eq!(cache[block][row], entry.tokens[at], "token {} of {}", at, work.id);
                        }
                        for at in entry.computed..entry.computed + work.tokens {
                            let (block, row) = place(at);
                            cache[block][row] = entry.tokens[at];
                        }
                        for &block in &entry.blocks[written] {
                            let holders = ids.iter().filter(|id| scheduler.entry(**id).blocks.contains(&block));
                            prop_assert_eq!(holders.count(), 1);
                        }
                    }
                    for work in &plan.work {
                        if work.reaches_end {
                            scheduler.append(work.id, 7);
                        }
                        scheduler.computed(work.id, work.tokens);
                        scheduler.set_draft(work.id, draft.then_some(1));
                        if scheduler.entry(work.id).tokens.len() >= limits.context {
                            scheduler.remove(work.id);
                            ids.retain(|&id| id != work.id);
                        }
                    }
                }
            }
        }
        for _ in 0..50000 {
            if ids.is_empty() {
                break;
            }
            let plan = step(&mut scheduler, 100, 7);
            prop_assert!(!plan.work.is_empty() || !plan.preempted.is_empty(), "somebody gets on");
            ids.retain(|&id| {
                let over = scheduler.entry(id).tokens.len() >= limits.context;
                if over {
                    scheduler.remove(id);
                }
                !over
            });
        }
        prop_assert!(ids.is_empty());
        prop_assert_eq!((scheduler.pool.held(), scheduler.running(), scheduler.waiting()), (0, 0, 0));
    }
}
