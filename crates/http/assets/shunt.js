// What the pages can do better with JavaScript: answer without a reload, and copy. Every form and
// link works without it.
(() => {
  "use strict";

  const say = (text) => {
    const region = document.getElementById("say");
    // Emptied first, so that the same words are read out again.
    region.textContent = "";
    requestAnimationFrame(() => { region.textContent = text; });
  };

  const showCopyButtons = (root) => {
    for (const button of root.querySelectorAll("[data-copy]")) button.hidden = false;
  };

  // Outside of https and localhost there is no clipboard API; the older command still works there.
  const copyByCommand = (text) => {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "quiet";
    area.readOnly = true;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  };

  const copy = async (button) => {
    let done = false;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      done = true;
    } catch {
      done = copyByCommand(button.dataset.copy);
      button.focus();
    }
    const label = button.dataset.label ?? button.textContent;
    button.dataset.label = label;
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    say(done ? "Copied" : "Could not copy. Select the link and copy it by hand.");
    clearTimeout(Number(button.dataset.timer));
    button.dataset.timer = String(setTimeout(() => { button.textContent = label; }, 1600));
  };

  // Sends a form and puts the answer's <main> in place of ours.
  const send = async (form) => {
    const button = form.querySelector("button[type=submit]");
    const key = form.elements.key?.value ?? "";
    if (button.getAttribute("aria-disabled") === "true") return;
    button.setAttribute("aria-disabled", "true");
    try {
      const answer = await fetch(form.action, {
        method: "POST",
        body: new URLSearchParams(new FormData(form)),
        headers: { Accept: "text/html" },
        credentials: "same-origin",
        redirect: "follow",
      });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const main = page.getElementById("main");
      if (!main) throw new Error(`an answer without content (${answer.status})`);
      document.getElementById("main").replaceWith(document.adoptNode(main));
      document.title = page.title;
      arrive(key);
    } catch {
      // Not sent again by itself: the link may have been made although no answer came.
      button.removeAttribute("aria-disabled");
      complain(form, "No usable answer came. Check the connection and try again.");
    }
  };

  const complain = (form, text) => {
    const notice = form.querySelector(".notice.bad") ?? document.createElement("p");
    notice.className = "notice bad";
    notice.textContent = text;
    form.prepend(notice);
    say(text);
  };

  // After new content came in: make it work, say it, and put the focus where the next step is.
  const arrive = (key) => {
    const main = document.getElementById("main");
    showCopyButtons(main);
    // The server never sends a key back; the one that was typed stays in its field.
    const keyField = main.querySelector("#key");
    if (keyField && keyField.getAttribute("aria-invalid") !== "true") keyField.value = key;
    const wrong = main.querySelector("[aria-invalid=true]");
    const problem = main.querySelector(".wrong, .notice.bad");
    const short = main.querySelector("#short-url");
    if (problem) {
      (wrong ?? main.querySelector("#long_url")).focus();
      say(problem.textContent);
    } else if (short) {
      main.querySelector("#result [data-copy]").focus();
      short.closest("section").classList.add("fresh");
      say(`Your short link is ${short.textContent}`);
    } else {
      main.querySelector("#long_url")?.focus();
      say("Done");
    }
  };

  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form[data-enhance]")) return;
    event.preventDefault();
    void send(event.target);
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) void copy(button);
  });

  showCopyButtons(document);
})();
