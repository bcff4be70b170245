// The pages of `docs/guide`, for rustdoc only. Links by name lead to files in these, and to modules here: the
// first definition of a name holds.

//! [01]: step_01
//! [02]: step_02
//! [03]: step_03
//! [04]: step_04
//! [05]: step_05
//! [06]: step_06
//! [07]: step_07
//! [08]: step_08
//! [09]: step_09
//! [10]: step_10
//! [11]: step_11
//! [12]: step_12
//! [13]: step_13
//! [timeline]: timeline
//! [glossary]: glossary
//!
#![doc = include_str!("../docs/guide/README.md")]

/// A page, with the text of its program or its pictures. Files beside the page are not found in the
/// documentation, so pictures stand in its text, at the end.
macro_rules! page {
    ($page:ident, $text:literal $(, $program:literal)? $(; $($picture:literal),+)?) => {
        #[doc = concat!(
            "[index]: crate::guide\n[glossary]: crate::guide::glossary\n[program]: #the-program\n",
            "[01]: crate::guide::step_01\n[02]: crate::guide::step_02\n[03]: crate::guide::step_03\n",
            "[04]: crate::guide::step_04\n[05]: crate::guide::step_05\n[06]: crate::guide::step_06\n",
            "[07]: crate::guide::step_07\n[08]: crate::guide::step_08\n[09]: crate::guide::step_09\n",
            "[10]: crate::guide::step_10\n[11]: crate::guide::step_11\n[12]: crate::guide::step_12\n",
            "[13]: crate::guide::step_13\n[timeline]: crate::guide::timeline\n\n",
        )]
        #[doc = include_str!(concat!("../docs/guide/", $text))]
        $(
            #[doc = "\n# The program\n\n```rust,ignore"]
            #[doc = include_str!(concat!("../examples/guide/", $program))]
            #[doc = "```"]
        )?
        $(
            #[doc = "\n# The pictures\n\n<style>.docblock img { display: none }</style>"]
            $(#[doc = concat!("\n", include_str!(concat!("../docs/guide/", $picture)))])+
        )?
        pub mod $page {}
    };
}

page!(step_01, "01.md", "01_one_client.rs");
page!(step_02, "02.md", "02_threads.rs");
page!(step_03, "03.md", "03_busy_loop.rs");
page!(step_04, "04.md", "04_poll.rs");
page!(step_05, "05.md", "05_epoll.rs");
page!(step_06, "06.md", "06_edge_triggered.rs");
page!(step_07, "07.md", "07_read_until_would_block.rs");
page!(step_08, "08.md", "08_pending.rs");
page!(step_09, "09.md", "09_back_pressure.rs");
page!(step_10, "10.md", "10_half_close.rs");
page!(step_11, "11.md", "11_run_queue.rs");
page!(step_12, "12.md", "12_udp.rs");
page!(step_13, "13.md");
page!(timeline, "timeline.md"; "fairness.svg", "stalled.svg", "storm.svg");
page!(glossary, "glossary.md");
