//! The keys of `--memory` that say where guest RAM comes from.

use gracefault::machine::MemoryConfig;
use gracefault::memory::{Backend, HugePage, RamOptions, ThpAdvice};

/// All that `--memory` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryArgs {
    pub(crate) sizes: MemoryConfig,
    pub(crate) ram: RamOptions,
}

/// For errors and the help.
pub(crate) const KEYS: &str = "backing, prefault, hugepages, discard";

const BACKINGS: &str =
    "anon, memfd, hugetlb, file:PATH, private-file:PATH, image:PATH, guest-memfd";

/// The values of those keys, as far as they have been read. They can come in any
/// order, and `hugepages=` means one thing to hugetlb and another to the rest.
#[derive(Debug, Default)]
pub(crate) struct BackingKeys {
    ram: RamOptions,
    huge: Option<Huge>,
}

#[derive(Clone, Copy, Debug)]
enum Huge {
    Page(HugePage),
    Thp(ThpAdvice),
}

impl BackingKeys {
    /// Takes a value. `Ok(false)`: the key is none of [`KEYS`].
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let no = |allowed: &str| format!("{key}: '{value}' is none of {allowed}");
        let switch = || match value {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(no("on, off")),
        };
        match key {
            "backing" => self.ram.backend = backend(value).ok_or_else(|| no(BACKINGS))?,
            "prefault" => self.ram.prefault = switch()?,
            "discard" => self.ram.discard = switch()?,
            "hugepages" => {
                self.huge = Some(match value {
                    "auto" => Huge::Thp(ThpAdvice::HostDecides),
                    "thp" => Huge::Thp(ThpAdvice::Wanted),
                    "off" => Huge::Thp(ThpAdvice::Unwanted),
                    "2M" => Huge::Page(HugePage::Size2M),
                    "1G" => Huge::Page(HugePage::Size1G),
                    _ => return Err(no("auto, thp, off, 2M, 1G")),
                });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What they come to.
    pub(crate) fn finish(mut self) -> Result<RamOptions, String> {
        match (self.huge, &mut self.ram.backend) {
            (None, _) => {}
            (Some(Huge::Page(size)), Backend::Hugetlb(page)) => *page = size,
            (Some(Huge::Page(_)), _) => {
                return Err("hugepages: 2M and 1G go with backing=hugetlb only".into());
            }
            (Some(Huge::Thp(_)), Backend::Hugetlb(_)) => {
                return Err("hugepages: backing=hugetlb takes 2M or 1G".into());
            }
            (Some(Huge::Thp(advice)), _) => self.ram.thp = advice,
        }
        Ok(self.ram)
    }
}

fn backend(value: &str) -> Option<Backend> {
    let (kind, path) = match value.split_once(':') {
        Some((kind, path)) => (kind, Some(path).filter(|path| !path.is_empty())),
        None => (value, None),
    };
    Some(match (kind, path) {
        ("file", Some(path)) => Backend::File(path.into()),
        ("private-file", Some(path)) => Backend::PrivateFile(path.into()),
        ("image", Some(path)) => Backend::Image(path.into()),
        _ => match value {
            "anon" => Backend::Anonymous,
            "memfd" => Backend::Memfd,
            "hugetlb" => Backend::Hugetlb(HugePage::Size2M),
            "guest-memfd" => Backend::GuestMemfd,
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RamOptions, String> {
        let mut keys = BackingKeys::default();
        for pair in text.split(',') {
            let (key, value) = pair.split_once('=').unwrap();
            assert!(keys.set(key, value)?, "{key}");
        }
        keys.finish()
    }

    #[test]
    fn every_backing_can_be_asked_for() {
        for (text, backend) in [
            ("anon", Backend::Anonymous),
            ("memfd", Backend::Memfd),
            ("hugetlb", Backend::Hugetlb(HugePage::Size2M)),
            ("file:/a:b", Backend::File("/a:b".into())),
            ("private-file:x", Backend::PrivateFile("x".into())),
            ("image:x", Backend::Image("x".into())),
            ("guest-memfd", Backend::GuestMemfd),
        ] {
            let options = parse(&format!("backing={text}")).unwrap();
            assert_eq!(options.backend, backend);
        }
        for bad in ["", "file", "file:", "memfd:x", "Anon", "file /x"] {
            let error = parse(&format!("backing={bad}")).unwrap_err();
            assert!(
                error.contains("backing") && error.contains("file:PATH"),
                "{error}"
            );
        }
    }

    #[test]
    fn hugepages_mean_what_the_backing_has() {
        let page = |text: &str| parse(text).unwrap().huge_page();
        assert_eq!(page("hugepages=1G,backing=hugetlb"), Some(HugePage::Size1G));
        assert_eq!(page("backing=hugetlb,hugepages=2M"), Some(HugePage::Size2M));
        assert_eq!(parse("hugepages=thp").unwrap().thp, ThpAdvice::Wanted);
        assert_eq!(parse("hugepages=off").unwrap().thp, ThpAdvice::Unwanted);
        for (bad, word) in [
            ("hugepages=2M", "backing=hugetlb only"),
            ("backing=hugetlb,hugepages=thp", "2M or 1G"),
            ("hugepages=4M", "auto, thp, off, 2M, 1G"),
            ("prefault=yes", "prefault: 'yes' is none of on, off"),
            ("discard=", "discard: '' is none of on, off"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn other_keys_are_somebody_else_s() {
        assert_eq!(BackingKeys::default().set("size", "1G"), Ok(false));
    }
}
