//! Stems of English words.

/// Words that the rules get wrong, and their stems.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Suffix and replacement, for stems with a vowel before a consonant; the first that fits decides.
const STEP_2: [(&str, &str); 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

const STEP_3: [(&str, &str); 7] =
    [("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];

const STEP_4: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti", "ous", "ive", "ize",
];

/// The stem of a lower-case word.
///
/// # Source
/// Porter 1980, with the extensions of nltk 3.10 (`PorterStemmer` in its default mode).
pub fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == word) {
        return (*stem).to_owned();
    }
    let letters: Vec<char> = word.chars().collect();
    if letters.len() <= 2 {
        return word.to_owned();
    }
    let mut word = Word(letters);
    word.plural();
    word.past();
    word.final_y();
    word.step_2();
    word.step_3();
    word.step_4();
    word.final_e();
    if word.ends("ll") && word.up_to(1).measure() > 1 {
        word.cut(1);
    }
    word.0.into_iter().collect()
}

/// Letters of a word in progress.
struct Word(Vec<char>);

impl Word {
    fn ends(&self, suffix: &str) -> bool {
        let mut letters = self.0.iter().rev();
        suffix.chars().rev().all(|letter| letters.next() == Some(&letter))
    }

    /// The word without its last letters.
    fn up_to(&self, less: usize) -> Stem<'_> {
        Stem(&self.0[..self.0.len().saturating_sub(less)])
    }

    fn cut(&mut self, less: usize) {
        self.0.truncate(self.0.len().saturating_sub(less));
    }

    fn replace(&mut self, less: usize, end: &str) {
        self.cut(less);
        self.0.extend(end.chars());
    }

    /// Step 1a.
    fn plural(&mut self) {
        match () {
            () if self.ends("ies") && self.0.len() == 4 => self.cut(1),
            () if self.ends("sses") || self.ends("ies") => self.cut(2),
            () if self.ends("ss") => {}
            () if self.ends("s") => self.cut(1),
            () => {}
        }
    }

    /// Step 1b.
    fn past(&mut self) {
        if self.ends("ied") {
            let less = if self.0.len() == 4 { 1 } else { 2 };
            return self.cut(less);
        }
        if self.ends("eed") {
            if self.up_to(3).measure() > 0 {
                self.cut(1);
            }
            return;
        }
        let Some(less) = ["ed", "ing"].into_iter().find(|end| self.ends(end) && self.up_to(end.len()).has_vowel()).map(str::len) else {
            return;
        };
        self.cut(less);
        let stem = self.up_to(0);
        if self.ends("at") || self.ends("bl") || self.ends("iz") {
            self.0.push('e');
        } else if stem.ends_double() {
            if !matches!(self.0.last(), Some('l' | 's' | 'z')) {
                self.cut(1);
            }
        } else if stem.measure() == 1 && stem.ends_short() {
            self.0.push('e');
        }
    }

    /// Step 1c.
    fn final_y(&mut self) {
        let stem = self.up_to(1);
        if self.ends("y") && stem.0.len() > 1 && stem.consonants().last() == Some(&true) {
            self.replace(1, "i");
        }
    }

    fn step_2(&mut self) {
        while self.ends("alli") && self.up_to(4).measure() > 0 {
            self.cut(2);
        }
        if self.replace_first(&STEP_2) {
            return;
        }
        // The one suffix whose stem is measured with a letter more.
        if self.ends("logi") && self.up_to(3).measure() > 0 {
            self.cut(1);
        }
    }

    fn step_3(&mut self) {
        self.replace_first(&STEP_3);
    }

    /// Whether a suffix was found, replaced or not.
    fn replace_first(&mut self, rules: &[(&str, &str)]) -> bool {
        let Some((suffix, end)) = rules.iter().find(|(suffix, _)| self.ends(suffix)) else { return false };
        if self.up_to(suffix.len()).measure() > 0 {
            self.replace(suffix.len(), end);
        }
        true
    }

    fn step_4(&mut self) {
        let Some(suffix) = STEP_4.into_iter().find(|suffix| self.ends(suffix)) else { return };
        let stem = self.up_to(suffix.len());
        if stem.measure() > 1 && (suffix != "ion" || matches!(stem.0.last(), Some('s' | 't'))) {
            self.cut(suffix.len());
        }
    }

    /// Step 5a.
    fn final_e(&mut self) {
        let stem = self.up_to(1);
        let measure = stem.measure();
        if self.ends("e") && (measure > 1 || (measure == 1 && !stem.ends_short())) {
            self.cut(1);
        }
    }
}

/// Letters before a suffix.
struct Stem<'a>(&'a [char]);

impl Stem<'_> {
    /// Whether each letter is a consonant; y is one at the start and behind a vowel.
    fn consonants(&self) -> Vec<bool> {
        let mut flags: Vec<bool> = Vec::with_capacity(self.0.len());
        for letter in self.0 {
            flags.push(match letter {
                'a' | 'e' | 'i' | 'o' | 'u' => false,
                'y' => !flags.last().copied().unwrap_or(false),
                _ => true,
            });
        }
        flags
    }

    /// How often a consonant follows a vowel.
    fn measure(&self) -> usize {
        self.consonants().windows(2).filter(|two| !two[0] && two[1]).count()
    }

    fn has_vowel(&self) -> bool {
        self.consonants().contains(&false)
    }

    fn ends_double(&self) -> bool {
        let two = self.0.len() >= 2 && self.0[self.0.len() - 1] == self.0[self.0.len() - 2];
        two && self.consonants().last() == Some(&true)
    }

    /// Consonant, vowel, consonant other than w, x and y; or vowel and consonant alone.
    fn ends_short(&self) -> bool {
        match self.consonants()[..] {
            [false, true] => true,
            [.., true, false, true] => !matches!(self.0.last(), Some('w' | 'x' | 'y')),
            _ => false,
        }
    }
}
