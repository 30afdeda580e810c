use super::*;
use crate::Compute;
use crate::training::testing::{assert_close, dot, finite_differences, noise, on_every_isa, wide};

/// Inputs of one attention; `shared` is MLA's rotary key.
#[derive(Clone)]
struct Inputs<T> {
    q: Vec<T>,
    k: Vec<T>,
    shared: Vec<T>,
    v: Vec<T>,
}

/// Row by row, in f64. Keys and values stand apart here, whatever their form.
fn reference(shape: Shape, inputs: &Inputs<f64>, document: Option<&[u32]>, scale: f64) -> Vec<f64> {
    let Shape { batch, seq, heads, kv_heads, nope, rope, value } = shape;
    let mut out = vec![0.0; batch * seq * heads * value];
    for (row, out) in out.chunks_mut(value).enumerate() {
        let (token, head) = (row / heads, row % heads);
        let (first, kv_head) = (token / seq * seq, head / (heads / kv_heads));
        let seen = first + document.map_or(0, |document| document[token] as usize)..token + 1;
        let q = &inputs.q[row * (nope + rope)..][..nope + rope];
        let score = |key: usize| {
            let own = &inputs.k[(key * kv_heads + kv_head) * nope..][..nope];
            let keys = own.iter().chain(&inputs.shared[key * rope..][..rope]);
            (q.iter().zip(keys).map(|(q, k)| q * k).sum::<f64>() * scale).exp()
        };
        let total: f64 = seen.clone().map(score).sum();
        for key in seen {
            let weight = score(key) / total;
            let values = &inputs.v[(key * kv_heads + kv_head) * value..][..value];
            out.iter_mut().zip(values).for_each(|(out, v)| *out += weight * v);
        }
    }
    out
}

/// `[rows, a]` and `[rows, b]` to `[rows, a + b]`.
fn join(a: &[f32], a_width: usize, b: &[f32], b_width: usize) -> Vec<f32> {
    let rows = a.chunks(a_width).zip(b.chunks(b_width));
    rows.flat_map(|(a, b)| a.iter().chain(b).copied().collect::<Vec<_>>()).collect()
}

fn split(joined: &[f32], a_width: usize, b_width: usize) -> [Vec<f32>; 2] {
    let rows = || joined.chunks(a_width + b_width);
    [
        rows().flat_map(|row| row[..a_width].to_vec()).collect(),
        rows().flat_map(|row| row[a_width..].to_vec()).collect(),
    ]
}

struct Case {
    shape: Shape,
    latent: bool,
    document: Option<Vec<u32>>,
    precision: MatmulPrecision,
}

const SCALE: f32 = 0.7;

/// `[out, dq, dk, dshared, dv]`.
fn run(compute: &Compute, case: &Case, inputs: &Inputs<f32>, dout: &[f32]) -> Vec<Vec<f32>> {
    let shape @ Shape { batch, seq, heads, nope, rope, value, .. } = case.shape;
    let kv = join(&inputs.k, nope, &inputs.v, value);
    let keys = if case.latent {
        Keys::Latent { kv: &kv, rope: &inputs.shared }
    } else {
        Keys::Separate { k: &inputs.k, v: &inputs.v }
    };
    let document = case.document.as_deref();
    let attention =
        Attention { shape, q: &inputs.q, keys, document, scale: SCALE, precision: case.precision };
    let (mut out, mut lse) = (vec![f32::NAN; dout.len()], vec![f32::NAN; batch * heads * seq]);
    forward(compute, &attention, &mut out, &mut lse);
    let saved = Saved { out: &out, lse: &lse, dout };
    let mut dq = vec![f32::NAN; inputs.q.len()];
    let (mut drope, mut per_head) =
        (vec![f32::NAN; inputs.shared.len()], vec![f32::NAN; batch * heads * seq * rope]);
    let [dk, dv] = if case.latent {
        let mut dkv = vec![f32::NAN; kv.len()];
        let keys = KeysGradient::Latent { dkv: &mut dkv, drope: &mut drope, per_head: &mut per_head };
        backward(compute, &attention, saved, Gradients { dq: &mut dq, keys });
        split(&dkv, nope, value)
    } else {
        let (mut dk, mut dv) = (vec![f32::NAN; inputs.k.len()], vec![f32::NAN; inputs.v.len()]);
        let keys = KeysGradient::Separate { dk: &mut dk, dv: &mut dv };
        backward(compute, &attention, saved, Gradients { dq: &mut dq, keys });
        [dk, dv]
    };
    vec![out, dq, dk, drope, dv]
}

fn inputs(shape: Shape) -> (Inputs<f32>, Vec<f32>) {
    let Shape { heads, kv_heads, nope, rope, value, .. } = shape;
    let tokens = shape.tokens();
    let inputs = Inputs {
        q: noise(tokens * heads * (nope + rope), 1),
        k: noise(tokens * kv_heads * nope, 2),
        shared: noise(tokens * rope, 3),
        v: noise(tokens * kv_heads * value, 4),
    };
    (inputs, noise(tokens * heads * value, 5))
}

fn check(case: &Case, tolerance: f64) {
    let shape = case.shape;
    let (inputs, dout) = inputs(shape);
    let exact =
        Inputs { q: wide(&inputs.q), k: wide(&inputs.k), shared: wide(&inputs.shared), v: wide(&inputs.v) };
    let document = case.document.as_deref();
    let result = |inputs: &Inputs<f64>| reference(shape, inputs, document, f64::from(SCALE));
    let gradient = |values: &[f64], put: &dyn Fn(&mut Inputs<f64>, &[f64])| {
        finite_differences(values, |values| {
            let mut inputs = exact.clone();
            put(&mut inputs, values);
            dot(&result(&inputs), &dout)
        })
    };
    let expected = [
        result(&exact),
        gradient(&exact.q, &|inputs, q| inputs.q.copy_from_slice(q)),
        gradient(&exact.k, &|inputs, k| inputs.k.copy_from_slice(k)),
        gradient(&exact.shared, &|inputs, shared| inputs.shared.copy_from_slice(shared)),
        gradient(&exact.v, &|inputs, v| inputs.v.copy_from_slice(v)),
    ];
    on_every_isa(
        |compute| run(compute, case, &inputs, &dout),
        |isa, got| {
            for ((name, got), expected) in ["out", "dq", "dk", "drope", "dv"].iter().zip(got).zip(&expected) {
                assert_close(&format!("{isa} {shape:?} {name}"), got, expected, tolerance);
            }
        },
    );
}

fn mla(batch: usize, seq: usize, heads: usize, [nope, rope, value]: [usize; 3]) -> Shape {
    Shape { batch, seq, heads, kv_heads: heads, nope, rope, value }
}

/// Documents of uneven lengths, one after the other in every sequence.
fn documents(shape: Shape, lengths: &[usize]) -> Vec<u32> {
    let mut starts = Vec::new();
    for &length in lengths.iter().cycle() {
        let first = starts.len() as u32;
        starts.extend(std::iter::repeat_n(first, length));
        if starts.len() >= shape.seq {
            break;
        }
    }
    starts.truncate(shape.seq);
    starts.repeat(shape.batch)
}

#[test]
fn latent_keys_with_and_without_documents() {
    for (shape, lengths) in [
        (mla(1, 1, 1, [1, 1, 1]), None),
        (mla(2, 9, 3, [5, 2, 3]), None),
        (mla(1, 21, 2, [3, 4, 7]), Some(vec![1, 5, 2, 9])),
        (mla(1, 70, 1, [2, 1, 2]), None),
        (mla(1, 140, 1, [1, 1, 1]), Some(vec![66, 3, 50])),
    ] {
        let document = lengths.map(|lengths: Vec<usize>| documents(shape, &lengths));
        check(&Case { shape, latent: true, document, precision: MatmulPrecision::F32 }, 5e-6);
    }
}

#[test]
fn separate_keys_shared_by_groups_of_heads() {
    for (heads, kv_heads) in [(2, 2), (4, 2), (3, 1)] {
        let shape = Shape { batch: 2, seq: 11, heads, kv_heads, nope: 4, rope: 0, value: 5 };
        let document = (kv_heads == 2).then(|| documents(shape, &[4, 3]));
        check(&Case { shape, latent: false, document, precision: MatmulPrecision::F32 }, 5e-6);
    }
}

#[test]
fn operands_in_bf16_are_close() {
    // Three rounded factors of 2⁻⁹ each on the way to a gradient, sums of a few dozen.
    let shape = mla(1, 20, 2, [8, 4, 6]);
    check(&Case { shape, latent: true, document: None, precision: MatmulPrecision::Bf16 }, 2e-2);
}

/// Longer sequences than finite differences can do: a document alone is what it is among others.
#[test]
fn documents_do_not_see_each_other() {
    let (shape, alone) = (mla(1, 300, 2, [16, 8, 12]), mla(1, 130, 2, [16, 8, 12]));
    let (inputs, dout) = inputs(shape);
    let cut = |values: &[f32]| values[values.len() / 300 * 100..values.len() / 300 * 230].to_vec();
    let part =
        Inputs { q: cut(&inputs.q), k: cut(&inputs.k), shared: cut(&inputs.shared), v: cut(&inputs.v) };
    let document = Some(documents(shape, &[100, 130, 70]));
    on_every_isa(
        |compute| {
            let case =
                Case { shape, latent: true, document: document.clone(), precision: MatmulPrecision::F32 };
            let all = run(compute, &case, &inputs, &dout);
            let case = Case { shape: alone, latent: true, document: None, precision: MatmulPrecision::F32 };
            let one = run(compute, &case, &part, &cut(&dout));
            all.iter().map(|values| cut(values)).chain(one).collect()
        },
        |isa, got| {
            let (among, alone) = got.split_at(5);
            for (among, alone) in among.iter().zip(alone) {
                assert_close(&format!("{isa}"), among, &wide(alone), 3e-6);
            }
        },
    );
}
