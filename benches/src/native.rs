//! Servers in C and Go: built where the compiler and the library are installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const DIR: &str = env!("CARGO_MANIFEST_DIR");

pub(crate) struct Native {
    /// Name of the executable.
    pub(crate) name: &'static str,
    /// Command line of the compiler, with OUTPUT for the path of the executable.
    build: &'static str,
    /// Name of what is compared: a library, or the compiler.
    pub(crate) library: &'static str,
    /// Command line that prints its version.
    pub(crate) version: &'static str,
}

pub(crate) const NATIVE: &[Native] = &[
    Native {
        name: "libuv_echo",
        build: "cc -O2 -Wall -Wextra -o OUTPUT servers/libuv_echo.c -luv",
        library: "libuv",
        version: "pkg-config --modversion libuv",
    },
    Native {
        name: "uring_echo",
        build: "cc -O2 -Wall -Wextra -o OUTPUT servers/uring_echo.c -luring",
        library: "liburing",
        version: "pkg-config --modversion liburing",
    },
    Native {
        name: "go_echo",
        build: "go build -o OUTPUT servers/go_echo.go",
        library: "go",
        version: "go env GOVERSION",
    },
];

impl Native {
    /// Builds the server and returns its path, or the reason why it cannot be built, in one line.
    pub(crate) fn build(&self) -> Result<PathBuf, String> {
        let directory = Path::new(DIR).join("target/native");
        fs::create_dir_all(&directory).map_err(|it| it.to_string())?;
        let path = directory.join(self.name);
        let command_line = self
            .build
            .replace("OUTPUT", &format!("target/native/{}", self.name));
        let mut words = command_line.split(' ');
        let compiler = words.next().unwrap_or_default();
        let output = Command::new(compiler).args(words).current_dir(DIR).output();
        let output = output.map_err(|_| format!("{compiler} is not installed"))?;
        if output.status.success() {
            Ok(path)
        } else {
            Err(reason(&String::from_utf8_lossy(&output.stderr)))
        }
    }
}

/// Returns the first error among the messages of a compiler or linker.
fn reason(messages: &str) -> String {
    let is_error = |it: &&str| it.contains("error: ") || it.contains("cannot find");
    let line = messages.lines().find(is_error);
    line.or(messages.lines().last())
        .unwrap_or("the compiler failed")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_the_first_error() {
        let header =
            "a.c: In function 'main':\na.c:1:10: fatal error: uv.h: No such file\n    1 | #include";
        assert_eq!(reason(header), "a.c:1:10: fatal error: uv.h: No such file");
        let linker = "/usr/bin/ld: cannot find -luv\ncollect2: error: ld returned 1 exit status";
        assert_eq!(reason(linker), "/usr/bin/ld: cannot find -luv");
        assert_eq!(reason(""), "the compiler failed");
    }

    #[test]
    fn missing_compiler_is_a_reason() {
        let native = Native {
            name: "x",
            build: "no-such-compiler OUTPUT",
            library: "",
            version: "",
        };
        assert_eq!(
            native.build(),
            Err("no-such-compiler is not installed".to_owned())
        );
    }
}
