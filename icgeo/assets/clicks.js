/* Tells of a click on the map where on the Earth it was, to a pixel, and what the map shows. */
element.addEventListener('click', event => {
  const map = event.target.closest('.js-plotly-plot');
  if (!map || event.target.closest('.modebar')) return;
  const {xaxis, yaxis} = map._fullLayout, box = map.getBoundingClientRect();
  const lon = xaxis.p2d(event.clientX - box.left - xaxis._offset);
  const lat = yaxis.p2d(event.clientY - box.top - yaxis._offset);
  const view = [xaxis.range, yaxis.range];
  if (Math.abs(lon) <= 180 && Math.abs(lat) <= 90) trigger('click', {lat, lon, view});
});
