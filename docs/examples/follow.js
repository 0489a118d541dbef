const FOR_GOOD = [1000, 1007, 1008, 1009]; // it has ended, or what was asked for is refused

export function follow(address, onEvent, onEnd = () => {}) {
  let latest, timer, socket, wait = 3000;

  function connect() {
    const url = new URL(address, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    if (latest !== undefined) url.searchParams.set("last_event_id", latest);
    socket = new WebSocket(url);
    socket.onmessage = (message) => {
      const { event = "message", id, retry, data } = JSON.parse(message.data);
      if (retry !== undefined) wait = retry;
      if (id !== undefined) latest = id;
      if (data !== undefined) onEvent(event, data); // without data it is no event, as a heartbeat
    };
    socket.onclose = ({ code, reason }) => {
      if (FOR_GOOD.includes(code)) onEnd(code, reason);
      else timer = setTimeout(connect, wait * (1 + Math.random())); // not all at once
    };
  }

  connect();
  return () => {
    clearTimeout(timer);
    socket.onclose = null;
    socket.close();
  };
}
