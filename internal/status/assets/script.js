// Asks for the numbers each two seconds, as long as somebody looks. What a cell says is set as text.
"use strict";
(() => {
	const every = 2000, most = 30000;
	const page = new URL(location.href);
	page.searchParams.set("format", "refresh");
	const all = (name) => Array.from(document.querySelectorAll("[data-" + name + "]"));
	const texts = all("text"), cells = all("cell"), paths = all("path"), state = document.getElementById("state");
	let wait = every, timer = 0, answered = new Date();

	const put = (now) => {
		if (now.layout !== document.body.dataset.layout) {
			location.reload();
			return;
		}
		now.texts.forEach((text, i) => { if (texts[i].textContent !== text) texts[i].textContent = text; });
		// The first cell, how long the process is up, is no cell of a table.
		now.bad.slice(1).forEach((bad, i) => cells[i].classList.toggle("bad", bad));
		now.paths.forEach((path, i) => paths[i].setAttribute("d", path));
	};

	const ask = async () => {
		clearTimeout(timer);
		if (document.hidden) return;
		try {
			const answer = await fetch(page, { headers: { Accept: "application/json" }, cache: "no-store", signal: AbortSignal.timeout(10000) });
			if (!answer.ok) throw new Error(answer.status);
			put(await answer.json());
			answered = new Date();
			wait = every;
			state.hidden = true;
		} catch {
			wait = Math.min(most, 2 * wait);
			if (state.hidden) state.textContent = "No answer since " + answered.toLocaleTimeString() + ". The numbers are of then.";
			state.hidden = false;
		}
		timer = setTimeout(ask, wait * (0.9 + 0.2 * Math.random()));
	};

	document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
	timer = setTimeout(ask, every);
})();
