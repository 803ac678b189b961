// Sorts and filters the table of points, and copies commands. Without it, all is shown.
(() => {
  const form = document.getElementById("controls");
  const table = document.getElementById("points");
  const rows = [...table.tBodies[0].rows];
  // Points that have not finished lack the cells of what is measured.
  const columns = [...table.tHead.rows[0].cells].map(c => c.dataset.column);
  const cell = (row, column) => {
    const own = [...row.cells].find(c => c.dataset.column === columns[column + 1]);
    return own?.dataset.value ?? "";
  };

  function compare(a, b, column, sign) {
    const [x, y] = [cell(a, column), cell(b, column)];
    if (x === "" || y === "") return (x === "") - (y === ""); // the unknown come last
    const known = !isNaN(x) && !isNaN(y);
    return sign * (known ? x - y : x.localeCompare(y));
  }

  function update() {
    const column = form.column.value, sign = form.down.checked ? -1 : 1;
    const sorted = [...rows];
    if (column !== "") sorted.sort((a, b) => compare(a, b, +column, sign));
    table.tBodies[0].append(...sorted);
    // Each part is the beginning of a word, so that "temperature 4" is not 64.
    const parts = form.words.value.toLowerCase().split(",").map(p => p.trim()).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const cells = [...row.cells].map(c => `${c.dataset.column || ""} ${c.textContent}`);
      const text = ` ${cells.join(" ")}`.toLowerCase().replace(/\s+/g, " ");
      const fits = !form.state.value || row.dataset.state === form.state.value;
      row.hidden = !(fits && parts.every(part => text.includes(` ${part}`)));
      count += !row.hidden;
    }
    form.count.value = `${count} of ${rows.length} points`;
    table.querySelectorAll("[data-sort]").forEach(button => {
      const own = column !== "" && button.dataset.sort === column;
      const order = sign < 0 ? "descending" : "ascending";
      button.parentElement.setAttribute("aria-sort", own ? order : "none");
    });
  }

  table.querySelectorAll("[data-sort]").forEach(button => {
    button.addEventListener("click", () => {
      const again = form.column.value === button.dataset.sort;
      form.down.checked = again ? !form.down.checked : button.textContent.includes("\u2191");
      form.column.value = button.dataset.sort;
      update();
    });
  });
  document.querySelectorAll(".copy").forEach(button => {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = button.parentElement.querySelector("pre");
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "copied";
      } catch { // pages opened from a file may not be allowed to
        getSelection().selectAllChildren(text);
        button.textContent = "selected";
      }
    });
  });
  form.hidden = false;
  form.addEventListener("input", update);
  form.addEventListener("submit", event => event.preventDefault());
  update();
})();
