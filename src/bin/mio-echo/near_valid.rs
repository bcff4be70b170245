//! Texts for property tests of parsers: valid ones, and ones with a few mistakes. The tests over real
//! sockets take this file, too.

use arbtest::arbitrary::{Result, Unstructured};
use arbtest::arbtest;

/// Tests a property with many texts. A failure prints its text, and a seed that repeats it:
/// `ARBTEST_SEED=0x... cargo test NAME`.
pub(crate) fn near_valid(
    groups: &[&[&str]],
    mut property: impl FnMut(&str, &mut Unstructured<'_>) -> Result<()>,
) {
    // Long texts find no more than short ones, and there are fewer of them in the time.
    arbtest(|u| {
        let text = PrintOnPanic(text(u, groups)?);
        property(&text.0, u)
    })
    .size_max(512);
}

struct PrintOnPanic(String);

impl Drop for PrintOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("text: {:?}", self.0);
        }
    }
}

/// One word of each group, after up to three edits; or, once in a while, any text.
fn text(u: &mut Unstructured<'_>, groups: &[&[&str]]) -> Result<String> {
    if u.ratio(1, 16)? {
        return u.arbitrary();
    }
    let mut text = Vec::new();
    for group in groups {
        text.extend(u.choose(group)?.chars());
    }
    for _ in 0..*u.choose(&[0, 0, 1, 2, 3])? {
        let start = u.int_in_range(0..=text.len())?;
        let end = *u.choose(&[start, start + 1, start + 3, text.len()])?;
        let range = start..end.min(text.len());
        let group = u.choose(groups)?;
        // Inserts where the range is empty, otherwise deletes, repeats or replaces it.
        let new = match u.int_in_range(0..=4)? {
            0 => Vec::new(),
            1 => text[range.clone()].repeat(2),
            2 => u.choose(group)?.chars().collect(),
            3 => vec![u.int_in_range(b' '..=b'~')?.into()],
            _ => vec![u.arbitrary()?],
        };
        text.splice(range, new);
    }
    Ok(text.into_iter().collect())
}
