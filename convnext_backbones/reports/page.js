'use strict';

(() => {
  const classFilter = document.getElementById('class-filter');

  // The first entry of a filter stands for all, whatever the others are called.
  const chosen = (select) => (select && select.selectedIndex > 0 ? select.value : null);

  const filterTable = (table, name) => {
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      row.hidden = name !== null && row.dataset.class !== name;
      shown += row.hidden ? 0 : 1;
    }
    const box = table.closest('.table');
    box.querySelector('.scroll').hidden = shown === 0;
    box.querySelector('.empty').hidden = shown > 0;
  };

  const filterGallery = (gallery, name) => {
    const group = chosen(gallery.querySelector('select'));
    const cards = gallery.querySelectorAll('.card');
    let shown = 0;
    for (const card of cards) {
      const groups = card.dataset.group.split('\n');
      const classes = card.dataset.classes ? JSON.parse(card.dataset.classes) : null;
      const otherClass = name !== null && classes !== null && !classes.includes(name);
      card.hidden = otherClass || (group !== null && !groups.includes(group));
      shown += card.hidden ? 0 : 1;
    }
    gallery.querySelector('.count').textContent =
      shown === cards.length ? `${shown} images` : `${shown} of ${cards.length} images`;
    gallery.querySelector('.empty').hidden = shown > 0;
  };

  const filterAll = () => {
    const name = chosen(classFilter);
    document.querySelectorAll('table[data-filtered]').forEach((table) => filterTable(table, name));
    document.querySelectorAll('.gallery').forEach((gallery) => filterGallery(gallery, name));
  };

  const collator = new Intl.Collator(undefined, { numeric: true });
  // Numbers before text; cells without a value last, in both directions.
  const compare = (one, other, sign) => {
    if (one.missing || other.missing) return one.missing - other.missing;
    if (one.number !== null && other.number !== null) return sign * (one.number - other.number);
    if (one.number !== null || other.number !== null) return one.number !== null ? -sign : sign;
    return sign * collator.compare(one.text, other.text);
  };

  const sortTable = (heading) => {
    const table = heading.closest('table');
    const column = heading.cellIndex;
    const key = (row) => {
      const cell = row.cells[column];
      const number = cell.dataset.value === undefined ? null : Number(cell.dataset.value);
      return { row, number, missing: cell.classList.contains('missing'), text: cell.textContent };
    };
    const before = heading.getAttribute('aria-sort');
    // Metrics are read from the best down, names from A to Z.
    const first = heading.classList.contains('number') ? 'descending' : 'ascending';
    const opposite = { ascending: 'descending', descending: 'ascending' };
    const direction = before ? opposite[before] : first;
    const body = table.tBodies[0];
    const keys = Array.from(body.rows, key);
    keys.sort((one, other) => compare(one, other, direction === 'ascending' ? 1 : -1));
    body.append(...keys.map((entry) => entry.row));
    for (const other of heading.parentElement.cells) other.removeAttribute('aria-sort');
    heading.setAttribute('aria-sort', direction);
  };

  const enlarge = (button) => {
    const large = button.closest('.card').classList.toggle('large');
    button.setAttribute('aria-pressed', large);
    button.textContent = large ? 'Reduce' : 'Enlarge';
  };

  document.addEventListener('click', (event) => {
    const button = event.target.closest('button');
    if (!button) return;
    if (button.matches('th button')) sortTable(button.closest('th'));
    if (button.matches('.enlarge')) enlarge(button);
  });
  document.addEventListener('change', (event) => {
    if (event.target.matches('select')) filterAll();
  });
  // A browser keeps the choice of a select when the page is loaded again.
  filterAll();
})();
