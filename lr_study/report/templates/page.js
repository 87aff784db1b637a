// A click on a column's head sorts its table; once more, the other way. Empty cells stay last.
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.tagName !== 'TH') return;
    const button = document.createElement('button');
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') === 'ascending';
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const order = (a, b) => head.classList.contains('number') ? a - b : a.localeCompare(b);
      const rows = [...table.tBodies[0].rows].sort((one, other) => {
        const a = key(one), b = key(other);
        if (a === '' || b === '') return (a === '') - (b === '');
        return down ? order(b, a) : order(a, b);
      });
      table.tBodies[0].append(...rows);
    });
  });
}

// Commands can be copied.
for (const command of document.querySelectorAll('.command')) {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Copy';
  const text = command.querySelector('pre');
  button.setAttribute('aria-label', `Copy: ${text.textContent}`);
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = 'Copied';
    } catch {  // the browser does not allow it: the text is selected, so that Ctrl-C copies it
      getSelection().selectAllChildren(text);
      button.textContent = 'Press Ctrl-C';
    }
    setTimeout(() => { button.textContent = 'Copy'; }, 2000);
  });
  command.append(button);
}
