//! Tables for people: as text, Markdown, CSV or LaTeX.

use comfy_table::{CellAlignment, Table, presets};

use crate::choice::choices;

choices! {
    /// How a table is written.
    pub enum Format {
        Text = "text": "Columns",
        Markdown = "markdown": "Markdown",
        Csv = "csv": "CSV",
        Latex = "latex": "LaTeX",
    }
}

/// A table for people: the first column names what a row is of, the others hold figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet {
    /// Titles of the columns.
    pub header: Vec<String>,
    /// Cells of each row, as many as there are titles.
    pub rows: Vec<Vec<String>>,
}

impl Sheet {
    /// The table in a format.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Text => self.text(),
            Format::Markdown => self.markdown(),
            Format::Csv => self.csv(),
            Format::Latex => self.latex(),
        }
    }

    fn text(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(&self.header);
        self.rows.iter().for_each(|cells| _ = table.add_row(cells));
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        table.trim_fmt() + "\n"
    }

    fn markdown(&self) -> String {
        let row = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<&str> = (0..self.header.len()).map(|i| if i == 0 { "---" } else { "---:" }).collect();
        format!("{}| {} |\n{}", row(&self.header), rule.join(" | "), self.lines(row))
    }

    fn csv(&self) -> String {
        let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
        let row = |cells: &[String]| cells.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n";
        row(&self.header) + &self.lines(row)
    }

    fn latex(&self) -> String {
        let row = |cells: &[String]| cells.iter().map(|cell| escaped(cell)).collect::<Vec<_>>().join(" & ") + " \\\\\n";
        let columns = format!("l{}", "r".repeat(self.header.len().saturating_sub(1)));
        format!(
            "\\begin{{tabular}}{{{columns}}}\n\\hline\n{}\\hline\n{}\\hline\n\\end{{tabular}}\n",
            row(&self.header),
            self.lines(row)
        )
    }

    fn lines(&self, row: impl Fn(&[String]) -> String) -> String {
        self.rows.iter().map(|cells| row(cells)).collect()
    }
}

/// A text as LaTeX would set it.
fn escaped(text: &str) -> String {
    let mut latex = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '_' | '%' | '&' | '#' | '$' | '{' | '}' => latex.extend(['\\', c]),
            '\\' => latex += "\\textbackslash{}",
            '~' => latex += "\\textasciitilde{}",
            '^' => latex += "\\textasciicircum{}",
            '±' => latex += "$\\pm$",
            '−' => latex += "$-$",
            '→' => latex += "$\\to$",
            'Ā' => latex += "$\\bar{A}$",
            '–' => latex += "--",
            c => latex.push(c),
        }
    }
    latex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_format_would_misread_is_escaped() {
        let sheet =
            Sheet { header: vec!["a_b".into(), "Ā".into()], rows: vec![vec!["x|\"y\" & {}".into(), "1 ± 2".into()]] };
        assert_eq!(sheet.render(Format::Markdown), "| a_b | Ā |\n| --- | ---: |\n| x\\|\"y\" & {} | 1 ± 2 |\n");
        assert_eq!(sheet.render(Format::Csv), "\"a_b\",\"Ā\"\n\"x|\"\"y\"\" & {}\",\"1 ± 2\"\n");
        let latex = sheet.render(Format::Latex);
        assert!(
            latex.contains("a\\_b & $\\bar{A}$") && latex.contains("x|\"y\" \\& \\{\\} & 1 $\\pm$ 2 \\\\"),
            "{latex}"
        );
    }
}
