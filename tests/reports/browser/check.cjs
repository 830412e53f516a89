// Open pages in a headless browser without a network, at desktop and phone width, light and dark, and judge them:
//     node check.cjs [--shots FOLDER] PAGE.html ...
// No message in the console, no missing image, nothing wider than the window, no violation that axe calls serious,
// and no error of html-validate. `make test-html` installs what this needs beside it and calls it.
"use strict";
const fs = require("fs");
const path = require("path");
const { execFileSync } = require("child_process");
const puppeteer = require("puppeteer-core");

const WINDOWS = [[1280, 900], [390, 844]];
const BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

function browser() {
  for (const folder of (process.env.PATH || "").split(path.delimiter))
    for (const name of BROWSERS) {
      const file = path.join(folder, name);
      if (fs.existsSync(file)) return file;
    }
  throw new Error("no browser found: install chromium");
}

async function look(app, file, [width, height], scheme, shots) {
  const page = await app.newPage();
  const faults = [];
  page.on("console", (m) => m.type() === "error" && faults.push(`console: ${m.text()}`));
  page.on("pageerror", (e) => faults.push(`script: ${e}`));
  page.on("requestfailed", (r) => faults.push(`request: ${r.url().slice(0, 80)}`));
  await page.setOfflineMode(true);
  await page.setBypassCSP(true); // for axe; the page itself has no script
  await page.setViewport({ width, height });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.goto(`file://${path.resolve(file)}`);
  const images = await page.evaluate(() => [...document.images].map((i) => i.naturalWidth));
  if (images.includes(0)) faults.push("an image is missing");
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  if (wide > 0) faults.push(`the page is ${wide} pixels wider than the window`);
  if (shots) {
    const name = `${path.basename(path.dirname(file))}_${path.basename(file, ".html")}_${width}_${scheme}.png`;
    await page.screenshot({ path: path.join(shots, name), fullPage: true });
  }
  await page.addScriptTag({ content: fs.readFileSync(require.resolve("axe-core"), "utf8") });
  const { violations } = await page.evaluate(() => axe.run());
  for (const v of violations) {
    const said = `axe: ${v.id} (${v.impact}, ${v.nodes.length}): ${v.nodes[0].html.slice(0, 120)}`;
    if (["serious", "critical"].includes(v.impact)) faults.push(said);
    else console.log(`  note: ${said}`);
  }
  await page.close();
  console.log(`${file} ${width} ${scheme}: ${images.length} images, ${faults.length} faults`);
  for (const fault of faults) console.log(`  ${fault}`);
  return faults.length;
}

function valid(file) {
  try {
    const program = path.join(__dirname, "node_modules", "html-validate", "bin", "html-validate.mjs");
    execFileSync(process.execPath, [program, file], { encoding: "utf8" });
    return 0;
  } catch (error) {
    console.log(`${file}: html-validate\n${error.stdout || error}`);
    return 1;
  }
}

(async () => {
  const words = process.argv.slice(2);
  const shots = words[0] === "--shots" ? words.splice(0, 2)[1] : "";
  if (!words.length) throw new Error("no page is given");
  if (shots) fs.mkdirSync(shots, { recursive: true });
  const app = await puppeteer.launch({ executablePath: browser(), args: ["--no-sandbox", "--disable-gpu"] });
  let faults = 0;
  for (const file of words) {
    faults += valid(file);
    for (const window of WINDOWS) for (const scheme of ["light", "dark"]) faults += await look(app, file, window, scheme, shots);
  }
  await app.close();
  process.exitCode = faults ? 1 : 0;
})().catch((error) => {
  console.error(String(error));
  process.exitCode = 1;
});
