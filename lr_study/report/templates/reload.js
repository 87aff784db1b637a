// Loads the page of a study that trains again, unless the reader pauses that.
const note = document.getElementById('reload');
const pause = document.createElement('button');
pause.type = 'button';
pause.textContent = 'Stop reloading';
pause.setAttribute('aria-pressed', 'false');
const reload = () => location.reload();
let timer = setTimeout(reload, 1000 * note.dataset.seconds);
pause.addEventListener('click', () => {
  const paused = pause.getAttribute('aria-pressed') === 'false';
  pause.setAttribute('aria-pressed', paused);
  clearTimeout(timer);
  if (!paused) timer = setTimeout(reload, 1000 * note.dataset.seconds);
});
note.after(pause);
