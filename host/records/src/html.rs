//! A replay as one HTML page that needs nothing else: to be attached to a change
//! request, and read on a phone.

use std::fmt::{self, Write};

use vmgroup_policy::Policy;

use crate::{Asked, Difference, Replayed, Side, Verdict};

/// Differences that are shown one by one. The counts are always of all.
const SHOWN: usize = 500;

const STYLE: &str = include_str!("report.css");

/// Writes the page. `when` turns milliseconds since 1970 into a readable time.
pub fn report(out: &mut impl Write, replayed: &Replayed, policy: &Policy, when: impl Fn(u64) -> String) -> fmt::Result {
    let name = Text(policy.plugin());
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Replay: {name}</title><style>{STYLE}</style></head><body>\n"
    )?;
    writeln!(out, "<h1>What <code>{name}</code> would have decided</h1>")?;
    let asked = Asked::of(policy);
    writeln!(
        out,
        "<p>{} {}, <code>{}</code>, configuration <code>{}</code></p>",
        Text(&asked.name),
        Text(&asked.version),
        Text(&asked.digest),
        Text(policy.config_text())
    )?;
    summary(out, replayed)?;
    for difference in replayed.differences.iter().take(SHOWN) {
        one(out, difference, &when)?;
    }
    if replayed.differences.len() > SHOWN {
        writeln!(out, "<p>{} more are not shown.</p>", replayed.differences.len() - SHOWN)?;
    }
    out.write_str("</body></html>\n")
}

fn summary(out: &mut impl Write, replayed: &Replayed) -> fmt::Result {
    writeln!(
        out,
        "<p class=\"verdict\">{} of {} decisions would have gone another way.</p>\n<table><tbody>",
        replayed.mattering(),
        replayed.asked
    )?;
    for verdict in Verdict::ALL {
        let class = if verdict.matters() && replayed.count(verdict) > 0 { " class=\"matters\"" } else { "" };
        writeln!(out, "<tr{class}><th>{}</th><td>{}</td></tr>", verdict.as_str(), replayed.count(verdict))?;
    }
    writeln!(out, "</tbody></table>")
}

fn one(out: &mut impl Write, difference: &Difference, when: &impl Fn(u64) -> String) -> fmt::Result {
    let Difference { at_ms, group, kind, members, policy, then, now, verdict, .. } = difference;
    let open = if verdict.matters() { " open" } else { "" };
    writeln!(
        out,
        "<details{open}><summary><b>{}</b> {} <span>{}, {kind} of {members} members</span></summary>",
        Text(group),
        verdict.as_str(),
        Text(&when(*at_ms)),
    )?;
    out.write_str("<div class=\"sides\">")?;
    side(out, &format!("then: {} {}", policy.plugin, policy.version), then)?;
    side(out, "now", now)?;
    out.write_str("</div></details>\n")
}

fn side(out: &mut impl Write, title: &str, side: &Side) -> fmt::Result {
    write!(out, "<section><h2>{}</h2>", Text(title))?;
    match side {
        Side::Answered(lines) => {
            out.write_str("<ol>")?;
            for line in lines {
                write!(out, "<li><b>{}</b>", Text(&line.subject))?;
                if let Some(place) = &line.place {
                    write!(out, " <code>{}</code>", Text(place))?;
                }
                write!(out, "<br><small>{}</small></li>", Text(&line.reason))?;
            }
            out.write_str("</ol>")?;
        }
        Side::Failed { reason, message } => {
            write!(out, "<p><b>{}</b><br><small>{}</small></p>", Text(reason), Text(message))?;
        }
    }
    out.write_str("</section>")
}

/// Text as it stands in HTML: names and reasons come from strangers.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
